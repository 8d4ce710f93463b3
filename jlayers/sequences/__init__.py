"""What is done with sequences above their type: streaming, and bodies written for arrays."""
