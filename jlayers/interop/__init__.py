"""Weights from and to other libraries: files, what goes where, and proof that it is the same."""

from typing import TYPE_CHECKING

from .exporting import export_state_dict
from .formats import FORMATS, Format
from .matching import Pairing, Plan, match
from .read_sharded import read_sharded
from .reading import read
from .report import Report, Row
from .verification import verify
from .writing import write

__all__ = [
    "FORMATS",
    "Format",
    "Pairing",
    "Plan",
    "Report",
    "Row",
    "export_state_dict",
    "match",
    "read",
    "read_sharded",
    "verify",
    "write",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
