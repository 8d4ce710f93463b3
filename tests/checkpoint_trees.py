"""Trees to save, by step, and folders of them."""

import jax.numpy as jnp
import numpy as np

from jlayers import training


def tree(step=0):
    return {"w": jnp.full((4, 3), float(step)), "b": np.arange(step, step + 5)}


def value(found):
    """The step of a tree that was restored."""
    return float(found.tree["w"][0, 0])


def filled_folder(folder):
    with training.CheckpointManager(folder) as checkpoints:
        for step in (100, 200, 300):
            checkpoints.save(step, tree(step), metrics={"loss": 1 / step})
    return checkpoints
