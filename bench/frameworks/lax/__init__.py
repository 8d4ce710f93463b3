"""Code written by hand on ``jax.lax`` and ``jax.numpy``, as one does without a layer library."""
