"""The contract as code: ``check_layer`` and ``check_sequence``, for anybody's layers."""

from .layers import check_layer
check_sequence = None

__all__ = ["check_layer", "check_sequence"]
