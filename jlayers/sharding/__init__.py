"""Many devices: which part of a model, its optimiser and its batches each of them holds."""

from typing import TYPE_CHECKING

from .layout import Layout, Placed
from .plan import Plan, plan
from .presets import (
    data_parallel,
    expert_parallel,
    fsdp,
    pipeline_parallel,
    sequence_parallel,
    tensor_parallel,
)
from .rules import Rules, rules

__all__ = [
    "Layout",
    "Placed",
    "Plan",
    "Rules",
    "data_parallel",
    "expert_parallel",
    "fsdp",
    "pipeline_parallel",
    "plan",
    "rules",
    "sequence_parallel",
    "tensor_parallel",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
