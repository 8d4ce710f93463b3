"""Training: the state, the pure step from one state to the next, and a loop built from them.

Data (``jlayers.data``), checkpoints (``jlayers.checkpoint``) and diagnosis (``jlayers.inspection``)
are packages of their own; their names are here as well, where a training program looks for them.
"""

from ..checkpoint.manager import CheckpointManager
from ..checkpoint.manifest import Manifest
from ..checkpoint.plan import RestorePlan
from ..checkpoint.restore import (
    DamagedCheckpointError,
    Restored,
    read_arrays,
    read_checkpoint,
    read_manifest,
    restore_plan,
)
from ..checkpoint.save import save_checkpoint
from ..data.batches import Batches
from ..data.prefetch import prefetch
from ..data.source import as_source
from ..data.stacking import stack_batches
from ..inspection.compilation.watch import CompileWatch, jit_reporting_recompiles
from ..inspection.nonfinite.report import NonFinite
from ..records.curve import learning_curve
from ..records.jsonl import json_lines, read_json_lines
from ..records.progress import Progress
from ..records.record import Record
from ..records.tensorboard import tensorboard
from .evaluate import make_evaluator
from .loop.early_stopping import EarlyStopping
from .loop.fit import fit
from .loop.hooks import FitResult, Hook, LoopSnapshot
from .loop.non_finite import NonFiniteError, find_non_finite
from .loss_scale import LossScale, ScaleState
from .state import TrainState, ema_params, train_state
from .step import TrainStep, compiled, train_step

__all__ = [
    "Batches",
    "CheckpointManager",
    "CompileWatch",
    "DamagedCheckpointError",
    "EarlyStopping",
    "FitResult",
    "Hook",
    "LoopSnapshot",
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
