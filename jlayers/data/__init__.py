"""Sources of batches that can be resumed exactly: arrays, iterables and loaders.

``Batches`` makes batches of arrays, ``as_source`` makes a source of anything that gives batches,
``stack_batches`` joins batches and ``prefetch`` reads them ahead. All of this works without
``jlayers.training``.
"""

from .as_source import as_source
from .batches import Batches
from .prefetch import Prefetched, prefetch
from .source import Position, Source
from .stacking import stack_batches

__all__ = [
    "Batches",
    "Position",
    "Prefetched",
    "Source",
    "as_source",
    "prefetch",
    "stack_batches",
]
