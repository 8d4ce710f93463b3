"""Looking into a model: shapes, costs, choices of algorithm, non-finite values, recompilations."""
