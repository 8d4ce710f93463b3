"""Models that leave: programs, files and operators that run without jlayers."""

from typing import TYPE_CHECKING

from .models import Loaded, load_model, save_model

__all__ = ["Loaded", "load_model", "save_model"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
