"""Quantised weights: kernels in 8 or 4 bits, in the state, and a scale for each channel or group.

How to read this file: ``quantize`` is the model; ``Quantized`` is what the layers inside get in
place of a kernel; ``quantize_params`` turns the parameters of the model inside into those of the
quantised one. The format and the product are in ``core.quantized``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..base import arguments
from ..base.arguments import Integer, Positive
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec, entry_of, merge_entry
from ..base.paths import fitting, flatten, unflatten
from ..base.patterns import Patterns, each_pattern
from ..base.specs import format_spec
from ..base.tracing import Trace
from ..base.types import Params, PyTree, State
from ..combinators.transparent import (
    copies_at,
    made_from,
    not_those_of_the_model,
    traced,
    weight_fits,
    weights_of,
    with_changed_weights,
    with_entries,
)
from ..core.quantized import FORMATS, dequantize, quantized_dense
from ..core.quantized import quantize as quantized
from ..core.weights import Weight, lazy, static

Dtype = Annotated[str, functools.partial(arguments.one_of, choices=tuple(FORMATS))]
Activations = Annotated[str, functools.partial(arguments.one_of, choices=("int8",))]


@factory
def quantize(
    layer: LayerOrFunction,
    pattern: Patterns = "**/*kernel",
    *,
    dtype: Dtype = "int8",
    axis: Integer = -1,
    group_size: Positive | None = None,
    activations: Activations | None = None,
) -> Layer:
    """The layer with kernels of 8 or 4 bits: ``kernel ~ kernel_q * kernel_scale``.

    Symmetric rounding to the nearest: the scale of a channel is its largest absolute value over 127
    (int8, Jacob et al., 2018, arXiv:1712.05877), 7 (int4) or 448 (float8, Micikevicius et al.,
    2022, arXiv:2209.05433). ``Dense``, the projections of attention and the logits of ``tied``
    multiply by the small weights themselves, an embedding reads rows of them; other layers make the
    kernel again at each call.

    Both arrays are in the *state*, not among the parameters: they have no gradient, and no
    optimiser, weight decay or average of weights may touch them. All other parameters train as
    before, and gradients pass through to what comes before. ``quantize_params`` turns parameters
    that were trained into those of this model, and ``merge`` turns them back.

    Args:
      layer: a layer with kernels, or any model with some in it.
      pattern: paths of parameters, one or a tuple; by default all kernels. For a table of
        embeddings: ``quantize(model, "**/embedding", axis=0)``, a scale for each row.
      dtype: ``"int8"``, ``"int4"`` (two in a byte) or ``"float8_e4m3fn"``.
      axis: that of the channels, by default the last one, of the outputs.
      group_size: how many neighbouring inputs of a channel share a scale (of a convolution,
        input channels); None for one scale a channel.
      activations: ``"int8"`` to round each row of the input of ``Dense`` and of projections to
        int8 as well, by its own largest absolute value, and to multiply integers. Its gradient is
        that of the product without rounding. The inputs of other layers stay as they are.

    State:
      that of ``layer``; and for each kernel ``kernel_q`` (channels, *others), int8, or uint8 (int4:
      two to a byte, with half the last axis; float8: the bits), and ``kernel_scale`` (channels,),
      or (channels, *others but the last, groups).

    Raises:
      LayerError: for a pattern that fits no parameter or one that is quantised already, a parameter
        that is not floating or has fewer than two axes, an axis that it does not have, and sizes
        that ``group_size``, or 2 for int4, does not divide.

    >>> import jax, jlayers as jl
    >>> layer = jl.transforms.quantize(jl.Dense(3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> {path: (str(leaf.dtype), leaf.shape) for path, leaf in jl.flatten(state).items()}
    {'kernel_q': ('int8', (3, 4)), 'kernel_scale': ('float32', (3,))}
    >>> sorted(params)
    ['bias']
    """
    inner, patterns = lift(layer), each_pattern(pattern)
    how = _How(dtype, axis, group_size, activations)
    if activations and (group_size or dtype.startswith("float")):
        raise LayerError(
            f"activations={activations!r} needs integer weights with one scale a channel",
            hint="without group_size, and dtype 'int8' or 'int4'",
        )

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        _check_not_twice(patterns, found.variables)
        specs = weights_of(found, patterns, layer=inner)
        own: dict[str, ParamSpec] = {}
        for path, spec in specs.items():
            how.check(path, spec.shape_of_one, spec.dtype)
            own |= how.parts(path, spec)
        rest = {path: leaf for path, leaf in flatten(found.params).items() if path not in specs}
        found = with_entries(found, {}, own)
        return dataclasses.replace(found, params=unflatten(rest), without=frozenset(specs)), y

    def change(params: Params, state: State, _: bool) -> tuple[Params, State, State]:
        leaves, rest = flatten(params), flatten(state)
        own: dict[str, jax.Array] = {}
        found = _paths_in(rest, patterns)
        if not found or any(weight_fits(path, patterns) for path in leaves):
            raise not_those_of_the_model([f"{path}_q" for path in found or patterns])
        for path in found:
            parts = {name: rest.pop(name) for name in (f"{path}_q", f"{path}_scale")}
            leaves[path] = how.weight(*parts.values())
            own |= parts
        return unflatten(leaves), unflatten(rest), own

    def convert(params: Params, state: State, copies: Callable[[str], int]) -> tuple[Params, State]:
        leaves, rest = flatten(params), flatten(state)
        _check_not_twice(patterns, rest)
        for path in fitting(patterns, leaves):
            kernel = jnp.asarray(leaves.pop(path))
            rest[f"{path}_q"], rest[f"{path}_scale"] = how.quantized(path, kernel, copies(path))
        return unflatten(leaves), unflatten(rest)

    def again(new: Layer) -> Layer:
        return quantize(
            new, pattern, dtype=dtype, axis=axis, group_size=group_size, activations=activations
        )

    made = with_changed_weights(inner, change, abstract, again)
    return made._replace(_weights=made._weights._replace(convert=convert))


@public_api
def quantize_params(
    model: LayerOrFunction, params: Params, state: State | None = None
) -> tuple[Params, State]:
    """The parameters and the state of a model with ``quantize`` in it, from those without.

    Args:
      model: a model with ``quantize`` around it, or around layers in it.
      params, state: of the same model without ``quantize``.

    Returns:
      ``(params, state)`` of ``model``.

    Raises:
      LayerError: for a model with nothing quantised in it, for parameters without the kernels that
        it has or with such that are quantised already, and for kernels that are not finite.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> params = {"kernel": jnp.array([[1.0, 3.0], [0.5, 0.1]]), "bias": jnp.zeros(2)}
    >>> layer = jl.transforms.quantize(jl.Dense(2))
    >>> params, state = jl.transforms.quantize_params(layer, params)
    >>> state["kernel_q"].tolist(), sorted(params)
    ([[127, 64], [127, 4]], ['bias'])
    """
    model = lift(model)
    if not _converts(model):
        raise LayerError(
            "nothing in the model is quantised",
            got=model.short(),
            hint="transforms.quantize(model) first, and then its parameters",
        )
    return _converted(model, params, {} if state is None else state, 0)


@lazy
class Quantized(Weight):
    """What a layer gets in place of a kernel: ``q * scale``."""

    scale: jax.Array
    how: _How = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.how.shape(self.kernel)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.scale.dtype if self.cast is None else self.cast

    def made(self) -> jax.Array:
        # A constant for whoever trains the rest.
        q, scale = self.kernel, lax.stop_gradient(self.scale)
        return dequantize(q, scale, self.how.dtype, axis=self.how.axis)

    def product(self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
        return self._product(x) if self.how.axis in (-1, 1) else super().product(x, dense)

    def product_with_rows(
        self, x: jax.Array, dense: Callable[[jax.Array, Any], jax.Array]
    ) -> jax.Array:
        return self._product(x) if self.how.axis in (0, -2) else super().product_with_rows(x, dense)

    def _product(self, x: jax.Array) -> jax.Array:
        """``x`` by what lies along the channels."""
        scale, how = lax.stop_gradient(self.scale), self.how
        return quantized_dense(x, self.kernel, scale, how.dtype, activations=how.activations)

    def rows(self, ids: jax.Array, lookup: Callable[[Any, jax.Array], jax.Array]) -> jax.Array:
        if self.how.axis not in (0, -2):
            return super().rows(ids, lookup)
        # Rows as they are stored, of which a few are read; NaN out of range comes by the scale.
        table = lax.stop_gradient(self.scale)
        scale = lookup(table.reshape(len(table), -1), ids)
        q = self.kernel.at[ids].get(mode="clip")
        flat = q.reshape(-1, q.shape[-1]), scale.reshape(-1, *table.shape[1:])
        rows = dequantize(*flat, self.how.dtype, axis=0)
        return rows.reshape(*ids.shape, -1).astype(self.dtype)


class _How(NamedTuple):
    """The arguments of ``quantize``."""

    dtype: str
    axis: int
    group_size: int | None
    activations: str | None

    def check(self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raises for a weight that cannot be quantised so."""
        got = format_spec(jax.ShapeDtypeStruct(shape, dtype))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise LayerError(f"{path} is not floating", expected="float32 or the like", got=got)
        if not -len(shape) <= self.axis < len(shape):
            raise LayerError(f"{path} has no axis {self.axis}", got=got)
        others = [size for i, size in enumerate(shape) if i != self.axis % len(shape)]
        for name, size in (
            (f"group_size {self.group_size}", self.group_size or 1),
            (f"2, for two {self.dtype} in a byte,", FORMATS[self.dtype].packed),
        ):
            if others[-1] % size:
                raise LayerError(
                    f"{name} does not divide the {others[-1]} inputs of {path}",
                    got=got,
                    hint="another size, dtype='int8', or a pattern that leaves it out",
                )

    def parts(self, path: str, spec: ParamSpec) -> dict[str, ParamSpec]:
        """The entries of the state, made from the initial weight."""
        one = jax.ShapeDtypeStruct(spec.shape_of_one, spec.dtype)
        found = {}
        for i, name in enumerate(("q", "scale")):

            def made(weight: jax.Array, i: int = i) -> jax.Array:
                return self.of_one(weight)[i]

            like = jax.eval_shape(made, one)
            entry = made_from(spec, made, like.shape)
            found[f"{path}_{name}"] = dataclasses.replace(entry, dtype=np.dtype(like.dtype))
        return found

    def of_one(self, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return quantized(weight, self.dtype, axis=self.axis, group_size=self.group_size)

    def quantized(self, path: str, weight: jax.Array, copies: int) -> tuple[jax.Array, jax.Array]:
        """q and scale of a weight with as many axes of copies in front."""
        self.check(path, weight.shape[copies:], weight.dtype)
        if weight.ndim - copies < 2:
            raise LayerError(f"{path} has no axis beside that of outputs", got=format_spec(weight))
        if not isinstance(weight, jax.core.Tracer) and not bool(jnp.isfinite(weight).all()):
            raise LayerError(f"{path} holds values that are not finite", got=format_spec(weight))
        function = self.of_one
        for _ in range(copies):
            function = jax.vmap(function)
        return function(weight)

    def weight(self, q: jax.Array, scale: jax.Array) -> Quantized:
        return Quantized(q, scale, self)

    def shape(self, q: jax.Array) -> tuple[int, ...]:
        """That of the weight, without axes of copies."""
        channels, *others, last = q.shape
        sizes = [*others, last * FORMATS[self.dtype].packed]
        sizes.insert(self.axis % (len(sizes) + 1), channels)
        return tuple(sizes)


def _paths_in(state: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The weights that fit and whose arrays are in the state."""
    names = set(state)
    paths = [name.removesuffix("_q") for name in names if name.endswith("_q")]
    return sorted(
        path for path in paths if f"{path}_scale" in names and weight_fits(path, patterns)
    )


def _check_not_twice(patterns: tuple[str, ...], state: Iterable[str]) -> None:
    """Raises where a weight that fits is quantised: the formats cannot be told apart."""
    if twice := _paths_in(state, patterns):
        raise LayerError(
            f"{twice[0]} is quantised already",
            hint="quantize each weight once, in one dtype, by patterns that leave out the others",
        )


def _converts(model: Layer) -> bool:
    return model._weights.convert is not None or any(map(_converts, model.children.values()))


def _converted(model: Layer, params: Params, state: State, copies: int) -> tuple[Params, State]:
    """The trees of a layer that has as many axes of copies around it."""
    inside = copies + model._weights.stacked
    trees: tuple[dict[str, Any], dict[str, Any]] = (dict(params), dict(state))
    for name, child in model.children.items():
        if _converts(child):
            made = _converted(child, entry_of(params, name), entry_of(state, name), inside)
            for tree, entry in zip(trees, made, strict=True):
                if not name:
                    tree.clear()
                tree.pop(name, None)
                merge_entry(tree, name, entry)
    if model._weights.convert is None:
        return trees
    return model._weights.convert(*trees, lambda path: copies + copies_at(model, path))
