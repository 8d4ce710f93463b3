"""Metrics summed up on the device, so that a loop need not wait for any step's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...base.errors import TrainingError
from ...base.specs import format_spec, specs_of
from ..gradient import Metrics


class Tally(NamedTuple):
    """Sums over the steps since the last record.

    Attributes:
      step: int32 (), the number of the step that comes next.
      counted: int32 (), the steps that are in the sums.
      sums: of each metric: float32, or int32 for what counts (up to 2**31 in a record).
      bad: int32 (), the number of the first step that was not sound, or -1.
    """

    step: Any
    counted: Any
    sums: dict[str, Any]
    bad: Any

    def add(self, metrics: Metrics, sound: jax.Array, alive: jax.Array | None) -> Tally:
        """With one more step, which counts where it was sound and was to be taken."""
        counts = sound if alive is None else sound & alive
        whole = jnp.asarray(True) if alive is None else counts
        first = ~sound & (self.bad < 0)
        return Tally(
            self.step + 1,
            self.counted + counts.astype(jnp.int32),
            {
                # Where steps are left out, what is counted counts in these too.
                name: self.sums[name] + _term(value, counts if _is_mean(value) else whole)
                for name, value in metrics.items()
            },
            jnp.where(first, self.step, self.bad),
        )

    def means(self) -> dict[str, float]:
        """What a record tells: means over the steps that count, and the sums of counts."""
        count = float(self.counted)
        return {
            name: float(value) / (count if _is_mean(value) else 1)
            for name, value in self.sums.items()
            if count or not _is_mean(value)
        }


def _is_mean(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))


def _term(value: jax.Array, counts: jax.Array) -> jax.Array:
    return jnp.where(counts, value.astype(jnp.float32 if _is_mean(value) else jnp.int32), 0)


def start_tally(metrics: Any, step: int) -> Tally:
    """The tally before the first step, zeros in numpy; ``metrics`` are their specs."""
    for name, spec in metrics.items():
        if spec.shape or jnp.issubdtype(spec.dtype, jnp.complexfloating):
            raise TrainingError(
                f"the metric {name!r} is no number",
                expected="real scalars: fit takes their means",
                got=format_spec(specs_of(spec)),
                hint="a mean, or one metric for each entry",
            )
    sums = {
        name: np.zeros((), np.float32 if _is_mean(spec) else np.int32)
        for name, spec in metrics.items()
    }
    return Tally(np.int32(step), np.int32(0), sums, np.int32(-1))


def cut(tally: Tally, clear: bool) -> tuple[jax.Array, Tally]:
    """All numbers of a tally in one array, to be copied to the host at once, and the next tally.

    The sums begin anew; with ``clear`` the bad step is forgotten.
    """
    words = jnp.stack([lax.bitcast_convert_type(leaf, jnp.int32) for leaf in _numbers(tally)])
    counted, sums = jax.tree.map(jnp.zeros_like, (tally.counted, tally.sums))
    bad = jnp.full_like(tally.bad, -1) if clear else tally.bad
    return words, Tally(tally.step, counted, sums, bad)


def uncut(words: np.ndarray, like: Tally) -> Tally:
    """The tally that was ``cut``; ``like`` has its metrics and their dtypes."""
    step, counted, bad, *whole = words
    means = words.view(np.float32)[3:]
    sums = {
        name: means[i] if value.dtype == np.float32 else whole[i]
        for i, (name, value) in enumerate(like.sums.items())
    }
    return Tally(step, counted, sums, bad)


def _numbers(tally: Tally) -> list[Any]:
    return [tally.step, tally.counted, tally.bad, *tally.sums.values()]
