"""How a model is trained in each framework, as its documentation has it.

Each file has ``training(model, size, optimizer, weights)``, which gives a ``Training``. Without
weights the model starts from the framework's own initialisers.
"""
