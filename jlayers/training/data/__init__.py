"""Where batches come from, and how they are found again."""
