"""References that nobody derived from jlayers: NumPy loops and converters of weights."""
