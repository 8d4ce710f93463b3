"""Activations: a hook of ``fit`` that measures what layers give, at every n-th step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ...base import arguments, processes
from ...base.constructors import LayerOrFunction, lift
from ...base.errors import TrainingError, public_init
from ...base.specs import format_short
from ...base.types import PyTree
from ...combinators.capture import capture
from ...inspection.histogram import Histogram
from .hooks import Hook

_SCALARS = ("mean", "std", "norm", "dead")


@public_init("Activations")
class Activations(Hook):
    """Statistics of what layers give, at every n-th step, in the records of ``fit``.

    Each is a metric, such as "activations/blocks/3/std" for the fourth copy of a ``repeat``. They
    are measured in evaluation, on one input, so that steps can be compared. The step that trains is
    the program that it is without them; the statistics are a program of their own.

    Args:
      model: the layer that is trained.
      x: the input on which it is measured, such as a batch that is kept for this.
      *patterns: as for ``capture``.
      every: measured every so many steps, and after the last.
      statistics: of ``"mean"``, ``"std"``, ``"norm"`` and ``"dead"``, the share of units that are 0
        for the whole batch; see ``capture``.
      loss: ``loss(y)`` gives a scalar; its gradients with respect to the outputs of these layers
        are measured too, as "activation_gradients/...".
      log: what ``tensorboard`` returned, which is among the hooks as well: it gets histograms.
      key: for a model that draws random numbers in evaluation too.

    Raises:
      TrainingError: for an unknown statistic, and for another ``log``.
      LayerError: for patterns that ``capture`` refuses.

    >>> import jax, numpy as np, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.serial(blocks=jl.repeat(jl.residual(jl.Dense(4)), 2), head=jl.Dense(1))
    >>> x = np.ones((8, 4), np.float32)
    >>> step = training.train_step(model, lambda y: y.mean(), optax.sgd(0.1))
    >>> state = step.start(jax.random.key(0), x)
    >>> measuring = training.Activations(model, x, "blocks", every=10, statistics=("std",))
    >>> fitted = training.fit(step, state, [(x,)], steps=10, progress=False, hooks=[measuring])
    >>> sorted(fitted.records[-1].metrics)
    ['activations/blocks/0/std', 'activations/blocks/1/std', 'loss']
    """

    def __init__(
        self,
        model: LayerOrFunction,
        x: PyTree,
        *patterns: str,
        every: int = 100,
        statistics: tuple[str, ...] = ("mean", "std", "dead"),
        loss: Callable[[PyTree], jax.Array] | None = None,
        log: Any = None,
        key: jax.Array | None = None,
    ):
        names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
        if not names or not set(names) <= set(_SCALARS):
            raise TrainingError(
                f"unknown statistics {format_short(statistics)}",
                expected=", ".join(map(repr, _SCALARS)),
                hint="log=training.tensorboard(folder) for histograms",
            )
        if log is not None and not callable(getattr(log, "histograms", None)):
            raise TrainingError(
                "log takes no histograms", expected="training.tensorboard(folder)",
                got=format_short(log),
            )  # fmt: skip
        if loss is not None:
            arguments.function("loss", loss, "y")
        self.every = arguments.positive("every", every)
        if key is not None:
            arguments.typed_key(key)
        self._log = log
        self._names = names if log is None else (*names, "histogram")
        model = lift(model)
        looking = {"activations": capture(model, *patterns, reduce=self._names)}
        if loss is not None:
            looking["activation_gradients"] = capture(
                model, *patterns, what="gradient", of=loss, reduce=self._names
            )

        def measure(params: PyTree, state: PyTree) -> dict[str, PyTree]:
            return {
                kind: layer.apply(params, state, x, key=key)[0][1]
                for kind, layer in looking.items()
            }

        self._measure = jax.jit(measure)

    def on_step(self, step: int, state: Any) -> dict[str, float]:
        scalars: dict[str, float] = {}
        histograms: dict[str, Histogram] = {}
        found = jax.device_get(self._measure(state.params, state.state))
        for kind, layers in found.items():
            for path, value in layers.items():
                for name, statistics in self._by_name(f"{kind}/{path}", value):
                    histogram = statistics.pop("histogram", None)
                    scalars |= {f"{name}/{own}": float(one) for own, one in statistics.items()}
                    if histogram is not None:
                        histograms[name] = Histogram.of(histogram["counts"], histogram["edges"])
        # Of several processes the first one alone writes.
        if histograms and processes.index() == 0:
            self._log.histograms(step, histograms)
        return scalars

    def _by_name(self, name: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """The statistics of each array and each copy, by name."""
        if isinstance(value, dict) and set(value) == set(self._names):
            copies = np.shape(next(own for key, own in value.items() if key != "histogram"))
            for copy in np.ndindex(copies):
                own = jax.tree.map(lambda array, copy=copy: array[copy], value)
                yield "/".join([name, *map(str, copy)]), own
            return
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            yield from self._by_name(f"{name}/{key}", entry)
