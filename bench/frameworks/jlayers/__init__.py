"""jlayers: the layout that all others are converted from."""
