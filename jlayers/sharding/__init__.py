"""Many devices: which part of a model, its optimiser and its batches each of them holds."""

from typing import TYPE_CHECKING

from .launch import Launch, initialize
from .layout import Layout, Placed
from .options import compiler_options
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
    "Launch",
    "Layout",
    "Placed",
    "Plan",
    "Rules",
    "compiler_options",
    "data_parallel",
    "expert_parallel",
    "fsdp",
    "initialize",
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
