"""The loop: steps without a pause, and hooks for everything beside them."""
