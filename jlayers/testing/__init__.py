"""check_layer: the contract as code, for jlayers' own layers and for anybody's."""

from .laws import check_layer
from .sequences import check_sequence

__all__ = ["check_layer", "check_sequence"]
