"""Why a layer departs: small changes with which it would agree, tried one after the other.

Nothing is guessed: the layer is run on its own input with each change, and only one with which it
gives what the original gave is reported.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.constructors import lift
from ..base.layer import Layer
from ..base.types import Params, PyTree, State


class Run(NamedTuple):
    """A layer as it is in the model, with one copy's parameters.

    Attributes:
      layer, params, state, x: of the call.
      images: sizes, channels last, of what may have been flattened before it.
    """

    layer: Layer
    params: Params
    state: State
    x: PyTree
    images: tuple[tuple[int, ...], ...] = ()


# Each gives what would be other, in words, and the layer with the change.
Hypothesis = Callable[[Run], Iterator[tuple[str, Run]]]


def explained(
    run: Run,
    others: Mapping[str, tuple[Params, State]],
    agrees: Callable[[PyTree], bool],
) -> str | None:
    """The change with which the layer agrees, in words; None where none of them does.

    Args:
      run: the layer that departs.
      others: parameters and state of the other layers made alike, by path.
      agrees: whether an output is the original's.
    """
    for path, (params, state) in others.items():
        alike = _specs((params, state)) == _specs((run.params, run.state))
        if alike and _agrees(run._replace(params=params, state=state), agrees):
            return f"it agrees with the arrays of {path!r}"
    for hypothesis in _HYPOTHESES:
        for words, changed in hypothesis(run):
            if _agrees(changed, agrees):
                return f"it agrees {words}"
    return None


# Compiled once for all changes of arrays.
@functools.lru_cache(maxsize=1)
def _compiled(layer: Layer) -> Callable[..., tuple[PyTree, State]]:
    return jax.jit(layer.apply)


def _agrees(run: Run, agrees: Callable[[PyTree], bool]) -> bool:
    try:
        y, _ = _compiled(run.layer)(run.params, run.state, run.x)
    except Exception:
        # A change that does not fit the layer is not the reason.
        return False
    return agrees(y)


def _specs(tree: PyTree) -> Any:
    return jax.tree.map(lambda leaf: jnp.shape(leaf), tree)


def _kernels(run: Run) -> Iterator[tuple[str, Run]]:
    for name, kernel in run.params.items():
        if not name.endswith("kernel") or jnp.ndim(kernel) < 2:
            continue
        spatial = tuple(range(jnp.ndim(kernel) - 2))
        changes = {"transposed": jnp.swapaxes(kernel, -1, -2)}
        if spatial:
            changes["turned"] = jnp.flip(kernel, spatial)
            changes["turned and transposed"] = jnp.swapaxes(changes["turned"], -1, -2)
            changes["with its first two axes swapped"] = jnp.swapaxes(kernel, 0, 1)
        for how, changed in changes.items():
            if changed.shape == kernel.shape:
                yield f"with {name!r} {how}", run._replace(params=run.params | {name: changed})
    square = {n: k.T for n, k in run.params.items() if jnp.ndim(k) == 2 and len({*k.shape}) == 1}
    if len(square) > 1:
        yield "with all its square kernels transposed", run._replace(params=run.params | square)


def _rows(run: Run) -> Iterator[tuple[str, Run]]:
    kernel = run.params.get("kernel")
    if kernel is None or jnp.ndim(kernel) != 2:
        return
    for *sizes, channels in run.images:
        if math.prod(sizes) in (0, 1) or math.prod(sizes) * channels != len(kernel):
            continue
        last = jnp.asarray(kernel).reshape(*sizes, channels, -1)
        first = jnp.asarray(kernel).reshape(channels, *sizes, -1)
        orders = {
            "the rows of 'kernel' as in the file, since the image is flattened with its channels "
            "last there too: a function in place of jl.Flatten() leaves them": jnp.moveaxis(
                last, -2, 0
            ),
            "the rows of 'kernel' turned from channels first, as jl.Flatten() before the layer "
            "makes interop.match do": jnp.moveaxis(first, 0, -2),
        }
        for words, rows in orders.items():
            params = run.params | {"kernel": rows.reshape(kernel.shape)}
            yield f"with {words}", run._replace(params=params)


_GATES = {"LSTM": "ifgo", "GRU": "rzn"}


def _gates(run: Run) -> Iterator[tuple[str, Run]]:
    names = _GATES.get(run.layer.maker, "")
    for order in itertools.islice(itertools.permutations(range(len(names))), 1, None):

        def reordered(array: jax.Array, order: tuple[int, ...] = order) -> jax.Array:
            if array.shape[-1] % len(order):
                return array
            parts = jnp.split(array, len(order), axis=-1)
            return jnp.concatenate([parts[i] for i in order], axis=-1)

        gated = {
            name: reordered(array)
            for name, array in run.params.items()
            if name in ("kernel", "recurrent_kernel", "bias")
        }
        # What was put at i belongs where the gate is that it agrees as.
        stored = ", ".join(names[order.index(i)] for i in range(len(names)))
        words = f"where its gates are taken to be stored as {stored}"
        yield words, run._replace(params=run.params | gated)


def _rebuilt(run: Run, option: str, value: object) -> Layer | None:
    """The layer made with another argument, where its description says all that it was made of."""
    factory: Any = run.layer._call.make
    if not hasattr(factory, "__jlayers_factory__"):
        return None
    options = run.layer._call.checked
    try:
        same = factory(**options)
        if repr(same) != repr(run.layer):
            return None
        return factory(**{**options, option: value})  # type: ignore[no-any-return]
    except Exception:
        return None


def _options_of(run: Run) -> Iterator[tuple[str, Run]]:
    sizes = run.params.get("kernel", np.zeros(()))
    window = jnp.shape(sizes)[:-2] or run.layer._call.checked.get("window_shape")
    if isinstance(window, int):
        window = (window,) * (jnp.ndim(run.x) - 2)
    tried: dict[str, list[object]] = {
        "epsilon": [1e-3, 1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 0.0],
        "padding": ["SAME", "VALID"],
        "axis": [*range(1, getattr(run.x, "ndim", 0))],
        "reset_after": [True, False],
        "reverse": [True],
    }
    if isinstance(window, tuple):
        tried["padding"] += [
            tuple((size // 2, size // 2) for size in window),
            tuple(((size - 1) // 2, (size - 1) // 2) for size in window),
        ]
    for option, values in tried.items():
        for value in values:
            layer = _rebuilt(run, option, value)
            if layer is not None and repr(layer) != repr(run.layer):
                yield f"with {option}={value!r}", run._replace(layer=layer)


def _candidate_bias(run: Run) -> Iterator[tuple[str, Run]]:
    if run.layer.maker != "GRU" or "recurrent_bias" not in run.params:
        return
    bias, own = run.params["bias"], run.params["recurrent_bias"]
    size = own.shape[-1]
    joined = jnp.asarray(bias).at[-size:].add(own)
    yield (
        "with the candidate's recurrent bias added to the other",
        run._replace(params=run.params | {"bias": joined, "recurrent_bias": jnp.zeros_like(own)}),
    )
    swapped = jnp.concatenate([bias[:-size], own]), bias[-size:]
    yield (
        "with the candidate's two biases swapped",
        run._replace(params=run.params | {"bias": swapped[0], "recurrent_bias": swapped[1]}),
    )


_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "jax.nn.gelu(approximate=False)": functools.partial(jax.nn.gelu, approximate=False),
    "jax.nn.gelu(approximate=True)": functools.partial(jax.nn.gelu, approximate=True),
    "jax.nn.relu": jax.nn.relu,
    "jax.nn.relu6": jax.nn.relu6,
    "jax.nn.silu": jax.nn.silu,
    "jax.nn.sigmoid": jax.nn.sigmoid,
    "jnp.tanh": jnp.tanh,
    "jax.nn.elu": jax.nn.elu,
    "jax.nn.softplus": jax.nn.softplus,
    "jax.nn.hard_sigmoid": jax.nn.hard_sigmoid,
    "jax.nn.hard_swish": jax.nn.hard_swish,
    "jax.nn.leaky_relu": jax.nn.leaky_relu,
    "jax.nn.leaky_relu(negative_slope=0.2)": functools.partial(
        jax.nn.leaky_relu, negative_slope=0.2
    ),
    "jax.nn.softmax": jax.nn.softmax,
}


def _functions(run: Run) -> Iterator[tuple[str, Run]]:
    # Layers that functions were made of have no factory.
    made = hasattr(run.layer._call.make, "__jlayers_factory__")
    if made or run.params or run.layer.children:
        return
    for name, function in _FUNCTIONS.items():
        yield f"as {name}", run._replace(layer=lift(function))


_HYPOTHESES: tuple[Hypothesis, ...] = (
    _functions,
    _kernels,
    _rows,
    _gates,
    _candidate_bias,
    _options_of,
)
