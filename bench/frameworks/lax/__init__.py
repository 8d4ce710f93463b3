"""Code written by hand with ``jax.lax`` and ``jax.numpy``, as one does without a layer library."""
