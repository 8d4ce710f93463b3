"""Training: the state of a run, the pure step from one to the next, and a loop built of them."""

from ..checkpoint.manager import Checkpoints
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
from ..data.source import source
from ..data.stacking import stacked
from ..inspection.compilation.watch import CompileWatch, watched
from ..inspection.nonfinite.find import find_non_finite
from ..inspection.nonfinite.report import NonFinite
from ..testing.resume import Resumption, verify_resume
from .evaluate import evaluation
from .loop.early_stopping import EarlyStopping
from .loop.fit import Fitted, fit
from .loop.trouble import NonFiniteError
from .loss_scale import LossScale, ScaleState
from .record import Record
from .state import TrainState, averaged, train_state
from .step import TrainStep, compiled, train_step
from .writers.curve import learning_curve
from .writers.jsonl import json_lines, read_json_lines
from .writers.progress import Progress
from .writers.tensorboard import tensorboard

__all__ = [
    "Batches",
    "Checkpoints",
    "CompileWatch",
    "DamagedCheckpointError",
    "EarlyStopping",
    "Fitted",
    "LossScale",
    "Manifest",
    "NonFinite",
    "NonFiniteError",
    "Progress",
    "Record",
    "RestorePlan",
    "Restored",
    "Resumption",
    "ScaleState",
    "TrainState",
    "TrainStep",
    "averaged",
    "compiled",
    "evaluation",
    "find_non_finite",
    "fit",
    "json_lines",
    "learning_curve",
    "prefetch",
    "read_arrays",
    "read_checkpoint",
    "read_json_lines",
    "read_manifest",
    "restore_plan",
    "save_checkpoint",
    "source",
    "stacked",
    "tensorboard",
    "train_state",
    "train_step",
    "verify_resume",
    "watched",
]
