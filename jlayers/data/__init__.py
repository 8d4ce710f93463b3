"""Sources of batches that can be resumed exactly: arrays, iterables and loaders.

``Batches`` makes batches of arrays, ``as_source`` makes a source of anything that gives batches,
``stack_batches`` joins batches and ``prefetch`` reads them ahead. All of this works without
``jlayers.training``.
"""

from typing import TYPE_CHECKING

from .as_source import as_source
from .batches import Batches
from .buckets import LengthBuckets
from .mixing import cutmix, mixup
from .moments import Moments, moments
from .prefetch import Prefetched, prefetch
from .source import Position, Source
from .stacking import stack_batches

__all__ = [
    "Batches",
    "LengthBuckets",
    "Moments",
    "Position",
    "Prefetched",
    "Source",
    "as_source",
    "cutmix",
    "mixup",
    "moments",
    "prefetch",
    "stack_batches",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
