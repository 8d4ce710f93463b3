"""check_layer: the contract as code, for jlayers' own layers and for anybody's."""

from .laws import check_layer

__all__ = ["check_layer"]
