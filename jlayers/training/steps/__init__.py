"""The state of a run, and the pure step from one to the next."""
