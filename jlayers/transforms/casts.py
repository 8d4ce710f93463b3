"""One layer in given dtypes: the wrapper that ``precision`` puts round layers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import OwnInit, ParamSpec
from ..base.specs import floating_dtype
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace, run_pair, trace
from ..base.types import Carry, Initializer, Key, Params, PyTree, Spec, State
from ..combinators.transformed import transformed
from ..combinators.transparent import traced, wrapper
from ..core.accumulation import accumulating, is_narrow
from ..core.weights import is_weight
from ..inspection.traverse import walk
from .dataflow import SCOPE, Program
from .precision_rules import AS_COMPUTED, AS_INPUT, Precision, check_available


def _layer_in(layer: Layer, rule: Precision) -> Layer:
    """One layer in the dtypes of a rule, whose ``output`` is what it says of this layer."""
    if rule.compute is not None and _is_written_by_hand(layer):
        layer = _with_cast_parameters(layer, rule.compute)
    run = layer if rule.accumulate is None or layer.children else _summed(layer, rule.accumulate)

    def finished(y: PyTree, x: PyTree) -> PyTree:
        # A layer without a floating input computes in the dtype of its parameters. Its gradient
        # with respect to them is then summed in theirs: that of a table is a sum over all steps.
        if rule.compute is not None and floating_dtype(x) is None and not layer.children:
            y = cast(y, rule.compute)
        if rule.output in (None, AS_COMPUTED):
            return y
        return cast(y, floating_dtype(x) if rule.output == AS_INPUT else rule.output)

    def own_cast(params: Params, state: State, x: PyTree) -> Params:
        """The arrays of a body without a floating input, which uses them as they are."""
        if rule.compute is None or not layer.children or floating_dtype(x) is not None:
            return params
        return _cast_at(params, trace(layer, x).own_parameters, rule.compute)

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        params = own_cast(params, state, x)
        with error_context(layer):
            y, new = run._apply(params, state, cast(x, rule.compute), key=key, train=train)
        return finished(y, x), new

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        check_available(rule)
        found, y = traced(layer, key, cast(x, rule.compute))
        _check_accumulates(layer, rule, found)
        if rule.params is not None:
            stored = _stored_in(found.inside[""], rule.params)
            found = dataclasses.replace(found, params=stored.params, inside={"": stored})
        return found, finished(y, x)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        params = own_cast(params, state, x)
        with error_context(layer):
            return stream_of(layer).start(params, state, cast(x, rule.compute), capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        params = own_cast(params, state, x)
        with error_context(layer):
            step, given = stream_of(run).advance, cast(x, rule.compute)
            y, carry, new = step(params, state, carry, given, key=key, train=train)
        return finished(y, x), carry, new

    def again(new: Layer) -> Layer:
        return layer_in_precision(new, rule)

    return wrapper(layer, abstract, apply, again, Stepping(start, advance))


def _is_written_by_hand(layer: Layer) -> bool:
    """Whether its arithmetic is a user's, who need not have thought of dtypes."""
    # Layers of this library use parameters in the dtype of their input, or in float32 by intention.
    make = layer._call.make
    module = getattr(make, "__module__", "")
    ours = module.startswith("jlayers.") and not module.startswith("jlayers.base.")
    return layer._abstract is run_pair and not layer.children and not ours


def _with_cast_parameters(layer: Layer, dtype: Any) -> Layer:
    """The same pair, whose parameters are cast where its input has floating arrays."""

    def casting(function: Any) -> Any:
        @functools.wraps(function)
        def call(params: Params, *inputs: PyTree, **options: Any) -> Any:
            if floating_dtype(inputs[-1]) is not None:
                params = cast(params, dtype)
            return function(params, *inputs, **options)

        call.casts = True  # type: ignore[attr-defined]
        return call

    return _with_functions(layer, casting)


def without_cast_parameters(layer: Layer) -> Layer:
    """The pair as it was written."""
    if not hasattr(layer._apply, "casts"):
        return layer
    return _with_functions(layer, lambda function: function.__wrapped__)


def _with_functions(layer: Layer, change: Callable[[Any], Any]) -> Layer:
    stream = layer._stream
    if isinstance(stream, Stepping):
        stream = Stepping(change(stream.start), change(stream.advance), stream.whole)
    apply, to_array = change(layer._apply), change(layer._apply_to_array)
    # What was traced is of the pair as it was.
    return layer._replace(_apply=apply, _apply_to_array=to_array, _stream=stream, _traces={})


def _summed(layer: Layer, dtype: Any) -> Layer:
    """A layer whose products are summed in a dtype."""
    call = functools.partial(accumulating, dtype)
    return transformed(layer, call, functools.partial(_summed, dtype=dtype))


def _check_accumulates(layer: Layer, rule: Precision, found: Trace) -> None:
    """Raises for a body around other layers that computes products of its own."""
    if rule.accumulate is None or not layer.children or "" in layer.children:
        return

    def run(params: Params, state: State, x: PyTree, key: jax.Array) -> PyTree:
        return layer._apply(params, state, x, key=key, train=False)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    inside = found.inside[""]
    closed = jax.make_jaxpr(run)(inside.params, inside.state, found.inputs[""][0], key)
    program = Program(closed, [path for path, _ in walk(layer)], ())
    own = [one for one in program.operations if not one.path]
    if any(is_narrow(one.name, one.outputs[0].dtype, rule.accumulate) for one in own):
        raise LayerError(
            "accumulate is for layers without others inside, and this one has products of its own",
            got=layer.short(),
            hint="a Dense or an Einsum for the product, or a rule without accumulate",
        )


# Its repr is a call of the function that users call. In files it has a name of its own: there the
# call of a user is another one.
_layer_in.__name__ = "precision"
layer_in_precision = factory(_layer_in)
layer_in_precision.__name__ = layer_in_precision.__qualname__ = "layer_in_precision"


def is_in_precision(layer: Layer) -> bool:
    """Whether it is a layer that ``layer_in_precision`` made."""
    return layer.maker == "precision" and "" in layer.children


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating arrays, or specs of such, in a dtype; None leaves it as it is."""
    if dtype is None:
        return tree

    def leaf_in(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return Spec(leaf.shape, dtype)
        return leaf.astype(dtype)

    # A profile shows what these cost, and ``audit`` tells them from casts inside layers.
    with jax.named_scope(f"{SCOPE}{jnp.dtype(dtype).name}"):
        return jax.tree.map(leaf_in, tree, is_leaf=is_weight)


def _cast_at(params: Params, paths: Collection[str], dtype: Any, path: str = "") -> Params:
    """The parameters with those at some paths in a dtype."""
    if not paths:
        return params
    return {
        name: _cast_at(entry, paths, dtype, f"{path}{name}/")
        if isinstance(entry, dict)
        else cast(entry, dtype)
        if path + name in paths
        else entry
        for name, entry in params.items()
    }


def _stored_in(found: Trace, dtype: Any) -> Trace:
    """The pass of a layer whose own parameters are stored in a dtype."""
    own = {path: _rounded(spec, jnp.dtype(dtype)) for path, spec in found.own_parameters.items()}

    def with_own(tree: Params, path: str) -> Params:
        return {
            name: with_own(entry, f"{path}{name}/")
            if isinstance(entry, dict)
            else Spec(entry.shape, own[path + name].dtype)
            if path + name in own
            else entry
            for name, entry in tree.items()
        }

    return dataclasses.replace(found, params=with_own(found.params, ""), own_parameters=own)


def _rounded(spec: ParamSpec, dtype: Any) -> ParamSpec:
    """The same array, drawn in its own dtype and stored in another one."""
    if not jnp.issubdtype(spec.dtype, jnp.floating) or spec.dtype == dtype:
        return spec
    how = spec.initializer
    made = _own_init_in(how) if isinstance(how, OwnInit) else _initializer_in(how, spec.dtype.name)  # type: ignore[arg-type]
    return ParamSpec(made, spec.shape, dtype, spec.key_path)


def _own_init_in(how: OwnInit) -> Initializer:
    def init(key: jax.Array, _: Any, dtype: Any) -> jax.Array:
        return how.array(how.source.init(key, how.source.x)).astype(dtype)

    return init


# One function for all arrays of one initialiser: ``draw`` draws those together.
@functools.lru_cache(maxsize=256)
def _initializer_in(how: Callable[..., jax.Array], drawn: str) -> Initializer:
    def init(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
        return how(key, shape, jnp.dtype(drawn)).astype(dtype)

    return init
