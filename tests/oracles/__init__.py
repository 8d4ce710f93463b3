"""References that were not derived from jlayers: NumPy loops and converters of weights."""
