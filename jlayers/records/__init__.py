"""Records of training, and where they go: terminal, JSON lines, TensorBoard, a picture.

Nothing here needs the loop of ``jlayers.training``: a loop of your own makes ``Record`` objects and
passes them on.
"""

from typing import TYPE_CHECKING

from .curve import learning_curve
from .jsonl import json_lines, read_json_lines
from .progress import Progress
from .record import Record
from .tensorboard import tensorboard

__all__ = [
    "Progress",
    "Record",
    "json_lines",
    "learning_curve",
    "read_json_lines",
    "tensorboard",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
