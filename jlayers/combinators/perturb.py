"""perturb and patch: models that take values for what layers inside them give."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..base.collecting import captured_for
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.paths import similar_pattern
from ..base.specs import format_short, format_spec, placeholders, specs_of
from ..base.tracing import Trace, trace
from ..base.types import Key, Params, PyTree, State
from ..inspection.selectors import Kinds
from .capture import capture
from .injected import (
    Inject,
    array_leaves,
    called_several_times,
    check_taken,
    entry_name,
    injector,
    with_entries,
    without_entries,
)
from .selected import rewritten, selection
from .transparent import traced, wrapper

# By path, the arrays for each leaf of the layer's output, by its number.
Given = dict[str, dict[str, dict[str, jax.Array]]]


@factory
def perturb(layer: LayerOrFunction, *patterns: str, kind: Kinds = None) -> Layer:
    """The layer with ``output + delta`` for outputs inside it; its input is ``(x, {path: delta})``.

    The gradient with respect to a delta of zeros is that with respect to the output, in any loss.
    A path that is left out, or None, is not changed. Parameters, state and paths are the layer's
    own; one input inside ``repeat`` has an axis of copies in front, as ``capture`` gives it.

    Args:
      layer: a model.
      *patterns: as for ``capture``, without names of values inside layers.
      kind: as for ``capture``.

    Shapes:
      delta: of the output; an array for a ``Sequence``. y: the output of the layer.

    Raises:
      LayerError: for a pattern or a kind that fits no layer; for a delta of another path or
        shape, or of a layer that is called several times.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.serial(encoder=jl.Dense(3), head=jl.Dense(1))
    >>> params, state = model.init(jax.random.key(0), jl.spec((2, 4)))
    >>> perturbed = jl.perturb(model, "encoder")
    >>> def loss(delta):
    ...     y, _ = perturbed.apply(params, state, (jnp.ones((2, 4)), {"encoder": delta}))
    ...     return jnp.sum(y)
    >>> gradient = jax.grad(loss)(jnp.zeros((2, 3)))
    >>> bool(jnp.allclose(gradient, params["head"]["kernel"].T))
    True
    """
    return _taking(
        lift(layer),
        patterns,
        kind,
        "perturb",
        lambda y, given: y + given["delta"].astype(y.dtype),
        lambda inputs: _with_dicts(inputs, 1, "(x, {path: delta})"),
        lambda specs, deltas: {
            path: _leaves(path, specs, deltas[path], "delta") for path in deltas
        },
        lambda new: perturb(new, *patterns, kind=kind),
    )


@factory
def patch(layer: LayerOrFunction, *patterns: str, kind: Kinds = None) -> Layer:
    """The layer with other values for outputs inside it; its input is ``(x, {path: value})``.

    With the values that ``capture`` gave for another input this is activation patching (Meng et
    al., 2022, arXiv:2202.05262): which layers carry what differs between two inputs?
    ``(x, values, {path: where})`` replaces a part, where bools that broadcast to the value are
    True: some copies of ``repeat``, rows, steps or units. A path that is left out, or None, is not
    changed. Parameters, state and paths are the layer's own.

    Args:
      layer: a model.
      *patterns: as for ``capture``, without names of values inside layers.
      kind: as for ``capture``.

    Shapes:
      value: of the output; an array or a ``Sequence`` for a ``Sequence``. y: the output of the
      layer.

    Raises:
      LayerError: for a pattern or a kind that fits no layer; for a value of another path or
        shape, or of a layer that is called several times.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.serial(blocks=jl.repeat(jl.Dense(4), 3), head=jl.Dense(2))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 4)))
    >>> (y, captured), _ = jl.capture(model, "blocks").apply(params, state, jnp.ones((1, 4)))
    >>> second = (jnp.arange(3) == 1)[:, None, None]
    >>> patched = jl.patch(model, "blocks")
    >>> z, _ = patched.apply(params, state, (jnp.zeros((1, 4)), captured, {"blocks": second}))
    >>> bool(jnp.allclose(y, z))
    True
    """

    def given(specs: dict[str, PyTree], values: dict[str, Any], where: dict[str, Any]) -> Given:
        if unknown := [path for path in where if path not in values]:
            raise LayerError(f"there is a where for {unknown[0]!r}, and no value")
        found = {path: _leaves(path, specs, values[path], "value") for path in values}
        for path, mask in where.items():
            for own in found[path].values():
                own["where"] = _broadcast(path, mask, own["value"])
        return found

    def replaced(y: jax.Array, given: dict[str, jax.Array]) -> jax.Array:
        value = given["value"].astype(y.dtype)
        return jnp.where(given["where"], value, y) if "where" in given else value

    return _taking(
        lift(layer),
        patterns,
        kind,
        "patch",
        replaced,
        lambda inputs: _with_dicts(
            inputs, 2, "(x, {path: value}) or (x, {path: value}, {path: where})"
        ),
        given,
        lambda new: patch(new, *patterns, kind=kind),
    )


def _taking(
    inner: Layer,
    patterns: tuple[str, ...],
    kind: Kinds,
    maker: str,
    how: Inject,
    parts: Callable[[PyTree], tuple[PyTree, list[dict[str, Any]]]],
    given: Callable[..., Given],
    again: Callable[[Layer], Layer],
) -> Layer:
    """The layer around injectors that ``perturb`` and ``patch`` are.

    Args:
      how: what an injector does with an output.
      parts: x and the dicts by path of an input.
      given: what the injectors get of these dicts, for the specs of the outputs by path.
    """
    selected = selection(inner, patterns, kind)
    if named := [f"{one.path}:{one.names[0]}" for one in selected.values() if one.names]:
        raise LayerError(
            f"{maker} takes outputs of layers, and not values in them", got=repr(named[0])
        )
    owner, entry = object(), entry_name()
    around = rewritten(inner, selected, functools.partial(injector, owner, entry, how))
    outputs = capture(inner, *patterns, reduce=_of_one_call, kind=kind)

    def apply(
        params: Params, state: State, inputs: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        x, dicts = parts(inputs)
        dicts = [{path: own for path, own in one.items() if own is not None} for one in dicts]
        for one in dicts:
            _check_paths(one, list(selected), maker)
        values = given(trace(outputs, x).out[1], *dicts)
        entries = with_entries(state, entry, values)
        with error_context(inner):
            (y, new), found = captured_for(
                owner, lambda: around._apply(params, entries, x, key=key, train=train)
            )
            check_taken(found, values)
        return y, without_entries(new, state, entry) if train else state

    def abstract(_: Layer, key: jax.Array, inputs: PyTree) -> tuple[Trace, PyTree]:
        found, _ = traced(inner, key, parts(inputs)[0])
        params, state = placeholders(found.params), placeholders(found.state)
        return found, apply(params, state, inputs, key=key, train=False)[0]

    unstreamed = "the values that it is given are of whole sequences"
    return wrapper(inner, abstract, apply, again, unstreamed)


def _with_dicts(inputs: PyTree, most: int, expected: str) -> tuple[PyTree, list[dict[str, Any]]]:
    fits = isinstance(inputs, tuple | list) and 2 <= len(inputs) <= 1 + most
    if not fits or not all(isinstance(one, Mapping) for one in inputs[1:]):
        raise LayerError(
            "takes its input with values by path", expected=expected, got=format_short(inputs)
        )
    x, *dicts = inputs
    return x, [*map(dict, dicts), *({} for _ in range(most - len(dicts)))]


def _check_paths(values: dict[str, Any], known: list[str], kind: str) -> None:
    for path in values:
        if path not in known:
            raise LayerError(
                f"no pattern of this {kind} fits {path!r}",
                expected=", ".join(map(repr, known)),
                hint=similar_pattern(path, known) or f"jl.{kind}(model, ..., {path!r})",
            )


def _leaves(path: str, specs: dict[str, PyTree], value: PyTree, name: str) -> dict[str, Any]:
    """The arrays of a value for the output at a path, by the number of the leaf."""
    calls, leaves = specs[path], array_leaves(value)
    if isinstance(calls, tuple):
        raise called_several_times(path, len(calls))
    wanted = calls["output"]
    expected = array_leaves(wanted)
    if [jnp.shape(leaf) for leaf in leaves] != [leaf.shape for leaf in expected]:
        raise LayerError(
            f"the {name} for {path!r} does not fit what the layer gives",
            expected=format_spec(wanted),
            got=format_spec(specs_of(value)),
            hint="the values of jl.capture fit; a repeat has an axis of copies in front",
        )
    return {str(i): {name: jnp.asarray(leaf)} for i, leaf in enumerate(leaves)}


def _of_one_call(value: PyTree) -> PyTree:
    # The output of a layer may itself be a tuple, as several calls are.
    return {"output": value}


def _broadcast(path: str, where: PyTree, value: jax.Array) -> jax.Array:
    array = jnp.asarray(where)
    try:
        if array.dtype != bool:
            raise ValueError
        return jnp.broadcast_to(array, value.shape)
    except ValueError:
        raise LayerError(
            f"the where for {path!r} does not fit its value",
            expected=f"bools that broadcast to {format_spec(specs_of(value))}",
            got=format_spec(specs_of(array)),
        ) from None
