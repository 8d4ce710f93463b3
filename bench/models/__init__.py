"""The models of the whole steps, in each framework, as its users write them.

Each file has ``MODELS``: name to a function of the size. The parts go by the same names everywhere,
so that one set of weights fits all (``bench.steps.weights``).
"""
