"""tie: a parameter that is another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import check_each_fits, flatten, matches, unflatten
from ..base.specs import format_short, format_spec
from ..base.tracing import Trace
from ..base.types import Params, PyTree, State
from ..combinators.transparent import not_those_of_the_model, traced, with_changed_weights
from ..core.weights import Weight, array_of, lazy


def _pairs(name: str, value: Any) -> dict[str, str]:
    texts = isinstance(value, Mapping) and all(
        isinstance(path, str) for pair in value.items() for path in pair
    )
    if not texts or not value:
        raise LayerError(
            f"{name} must be a dict of paths, got {format_short(value)}",
            hint='{"head/kernel": "embedding/embedding"}: the first is removed',
        )
    for path, source in value.items():
        if source in value:
            raise LayerError(
                f"{path!r} cannot be {source!r}, which is another one itself",
                hint="each path is removed, or used by others",
            )
    return dict(value)


@factory
def tie(
    layer: LayerOrFunction, paths: Annotated[Mapping[str, str], _pairs], *, transpose: bool = False
) -> Layer:
    """The model with some parameters removed: others are used for them.

    ``jl.tied`` and a ``compose`` body do it where the model is wired; this does it to a model that
    exists, such as one whose file has one array for both ends.

    Args:
      layer: a model.
      paths: for each parameter that is removed the one that is used, both in full.
      transpose: whether the last two axes change places.

    The parameters are those of ``layer`` without those that are removed. The gradient of a
    parameter is the sum over its uses.

    Raises:
      LayerError: for a path that is not a parameter, and for two of different shapes.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Embedding(100, 8), head=jl.Dense(100, bias=False))
    >>> model = jl.transforms.tie(model, {"head/kernel": "embedding/embedding"}, transpose=True)
    >>> params, state = model.init(jax.random.key(0), jl.spec((2, 5), "int32"))
    >>> sorted(jl.flatten(params))
    ['embedding/embedding']
    """
    inner = lift(layer)

    def change(params: Params, state: State, _: bool) -> tuple[Params, State, State]:
        leaves = flatten(params)
        if absent := [source for source in paths.values() if source not in leaves]:
            raise not_those_of_the_model(absent)
        for path, source in paths.items():
            leaves[path] = _turned(leaves[source]) if transpose else leaves[source]
        return unflatten(leaves), state, {}

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        known = found.parameters
        # A pattern fits a path without being one.
        exact = [path for path in (*paths, *paths.values()) if path not in known]
        check_each_fits(tuple(exact), [*known], "path")
        if exact:
            raise LayerError(
                f"{exact[0]!r} is a pattern, and tie takes paths in full",
                hint=f"{next(path for path in known if matches(path, exact[0]))!r}",
            )
        for path, source in paths.items():
            _check_alike(path, known[path], source, known[source], transpose)
        params = unflatten({p: leaf for p, leaf in flatten(found.params).items() if p not in paths})
        return dataclasses.replace(found, params=params, without=frozenset(paths)), y

    return with_changed_weights(
        inner, change, abstract, lambda new: tie(new, paths, transpose=transpose)
    )


def _check_alike(
    path: str, spec: ParamSpec, source: str, found: ParamSpec, transpose: bool
) -> None:
    def turned(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], *shape[:-3:-1])

    given = turned(found.shape) if transpose else found.shape
    if transpose and len(found.shape_of_one) < 2:
        raise LayerError(f"{source!r} has no two axes to transpose", got=format_spec(found))
    if given != spec.shape or spec.copies != found.copies or spec.dtype != found.dtype:
        fits = turned(given) == spec.shape
        raise LayerError(
            f"{source!r} cannot be used for {path!r}",
            expected=format_spec(spec),
            got=format_spec(found) + ", transposed" * transpose,
            hint=f"transpose={not transpose}" if fits else None,
        )


def _turned(leaf: Any) -> Any:
    return Transposed(leaf) if isinstance(leaf, Weight) else jnp.swapaxes(leaf, -1, -2)


@lazy
class Transposed(Weight):
    """The kernel with its last two axes in the other order."""

    @property
    def shape(self) -> tuple[int, ...]:
        *others, rows, columns = self.kernel.shape
        return (*others, columns, rows)

    def made(self) -> jax.Array:
        return jnp.swapaxes(array_of(self.kernel), -1, -2)
