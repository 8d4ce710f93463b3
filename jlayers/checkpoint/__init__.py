"""Checkpoints: trees of arrays in files, written atomically and restored strictly.

``save_checkpoint`` and ``read_checkpoint`` write and read one, ``CheckpointManager`` a folder of
them. All of this works without ``jlayers.training``, on any tree of arrays.
"""

from .formats.base import CorruptFileError, Format, register
from .formats.safetensors import read_safetensors
from .manager import CheckpointManager
from .manifest import Manifest
from .plan import RestorePlan
from .restore import (
    CorruptCheckpointError,
    Restored,
    read_arrays,
    read_checkpoint,
    read_manifest,
    restore_plan,
)
from .save import save_checkpoint
from .tree import LeafSpec

__all__ = [
    "CheckpointManager",
    "CorruptCheckpointError",
    "CorruptFileError",
    "Format",
    "LeafSpec",
    "Manifest",
    "RestorePlan",
    "Restored",
    "read_arrays",
    "read_checkpoint",
    "read_manifest",
    "read_safetensors",
    "register",
    "restore_plan",
    "save_checkpoint",
]


def __getattr__(name: str) -> object:
    if name == "DamagedCheckpointError":
        raise AttributeError(f"{__name__}.{name} is called CorruptCheckpointError now")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
