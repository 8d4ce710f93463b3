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
from .logs.curve import learning_curve
from .logs.json_lines import json_lines, read_json_lines
from .logs.progress import Progress
from .logs.tensorboard import tensorboard
from .loop.early_stopping import EarlyStopping
from .loop.fit import Fitted, fit
from .loop.trouble import NonFiniteError
from .loop.verify import Resumption, verify_resume
from .record import Record
from .steps.evaluate import evaluation
from .steps.loss_scale import LossScale, ScaleState
from .steps.step import TrainStep, compiled, train_step
from .steps.train_state import TrainState, averaged, train_state

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
