"""Training: the state, the pure step from one state to the next, and a loop built from them.

Data (``jlayers.data``), checkpoints (``jlayers.checkpoint``) and diagnosis (``jlayers.inspection``)
are packages of their own; their names are here as well, where a training program looks for them.
"""

from typing import TYPE_CHECKING

from ..checkpoint import (
    CheckpointManager,
    CorruptCheckpointError,
    Manifest,
    Restored,
    RestorePlan,
    read_arrays,
    read_checkpoint,
    read_manifest,
    restore_plan,
    save_checkpoint,
)
from ..data import Batches, as_source, prefetch, stack_batches
from ..inspection.compilation.watch import CompileWatch, jit_reporting_recompiles
from ..inspection.nonfinite.report import NonFinite
from ..records import Progress, Record, json_lines, learning_curve, read_json_lines, tensorboard
from .evaluator import make_evaluator
from .loop.activations import Activations
from .loop.early_stopping import EarlyStopping
from .loop.fit import fit
from .loop.hooks import FitResult, Hook, LoopSnapshot
from .loop.non_finite import NonFiniteError, find_non_finite
from .loss_scale import LossScale, ScaleState
from .memory import MemoryPlan, memory_plan
from .state import TrainState, ema_params, train_state
from .step import TrainStep, compiled, train_step

__all__ = [
    "Activations",
    "Batches",
    "CheckpointManager",
    "CompileWatch",
    "CorruptCheckpointError",
    "EarlyStopping",
    "FitResult",
    "Hook",
    "LoopSnapshot",
    "LossScale",
    "Manifest",
    "MemoryPlan",
    "NonFinite",
    "NonFiniteError",
    "Progress",
    "Record",
    "RestorePlan",
    "Restored",
    "ScaleState",
    "TrainState",
    "TrainStep",
    "as_source",
    "compiled",
    "ema_params",
    "find_non_finite",
    "fit",
    "jit_reporting_recompiles",
    "json_lines",
    "learning_curve",
    "make_evaluator",
    "memory_plan",
    "prefetch",
    "read_arrays",
    "read_checkpoint",
    "read_json_lines",
    "read_manifest",
    "restore_plan",
    "save_checkpoint",
    "stack_batches",
    "tensorboard",
    "train_state",
    "train_step",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
