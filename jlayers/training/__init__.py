"""Training: the state of a run, the pure step from one to the next, and a loop built of them."""

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
from ..inspection.nonfinite.find import find_non_finite
from ..inspection.nonfinite.report import NonFinite
from .evaluate import make_evaluator
from .loop.early_stopping import EarlyStopping
from .loop.fit import FitResult, fit
from .loop.trouble import NonFiniteError
from .loss_scale import LossScale, ScaleState
from .record import Record
from .state import TrainState, ema_params, train_state
from .step import TrainStep, compiled, train_step
from .writers.curve import learning_curve
from .writers.jsonl import json_lines, read_json_lines
from .writers.progress import Progress
from .writers.tensorboard import tensorboard

__all__ = [
    "Batches",
    "CheckpointManager",
    "CompileWatch",
    "CorruptCheckpointError",
    "EarlyStopping",
    "FitResult",
    "LossScale",
    "Manifest",
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


def __getattr__(name: str) -> object:
    if name == "DamagedCheckpointError":
        raise AttributeError(f"{__name__}.{name} is called CorruptCheckpointError now")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
