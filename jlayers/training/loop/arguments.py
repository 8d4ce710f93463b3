"""What ``fit`` was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...checkpoint import CheckpointManager
from ...data import Source
from ..step import Step


class Arguments(NamedTuple):
    """The arguments of ``fit``, checked."""

    step: Step
    source: Source
    steps: int | None
    epochs: int | None
    steps_per_call: int
    log_every: int
    evaluate: Callable[[Any], dict[str, Any]] | None
    evaluate_every: int
    checkpoints: CheckpointManager | None
    checkpoint_every: int
    non_finite: str
    max_compiles: int | None
    prefetch: int
    device: Any
