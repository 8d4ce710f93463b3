"""Training: the state of a run, and the pure step from one to the next."""

from .step import compiled, train_step
from .train_state import TrainState, train_state

__all__ = ["TrainState", "compiled", "train_state", "train_step"]
