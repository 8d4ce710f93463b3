"""Checkpoints: trees of arrays in files, written atomically and restored strictly.

``save_checkpoint`` and ``read_checkpoint`` write and read one, ``CheckpointManager`` a folder of
them. All of this works without ``jlayers.training``, on any tree of arrays.
"""

from typing import TYPE_CHECKING

from .formats.base import CorruptFileError, Format, register
from .formats.safetensors import read_safetensors
from .group import CorruptCheckpointError
from .manager import CheckpointManager
from .manifest import Manifest
from .parts import Part
from .plan import RestorePlan
from .restore import (
    Restored,
    read_arrays,
    read_checkpoint,
    read_manifest,
    restore_plan,
)
from .saving import save_checkpoint
from .tree import LeafSpec

__all__ = [
    "CheckpointManager",
    "CorruptCheckpointError",
    "CorruptFileError",
    "Format",
    "LeafSpec",
    "Manifest",
    "Part",
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

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
