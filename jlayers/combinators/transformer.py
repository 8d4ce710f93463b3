"""The blocks of a transformer: attention and a network for each step, added to what comes in.

They are what ``compose`` says in ten lines, with names that pre- and post-norm share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..base.arguments import Fraction
from ..base.constructors import LayerOrFunction, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope, composite
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..layers.norm.layer_norm import LayerNorm
from ..layers.regularization.dropout import Dropout
from .merge import residual_sum


@factory
def TransformerBlock(
    attend: LayerOrFunction,
    mlp: LayerOrFunction,
    *,
    norm: LayerOrFunction | None = None,
    norm_first: bool = True,
    parallel: bool = False,
    dropout_rate: Fraction = 0.0,
) -> Layer:
    """Attention, then a network for each step, each added to its input: an encoder's block.

    ::

        x = x + drop(attend(norm_attend(x)));  y = x + drop(mlp(norm_mlp(x)))    # norm_first
        x = norm_attend(x + drop(attend(x)));  y = norm_mlp(x + drop(mlp(x)))    # post-norm
        y = x + drop(attend(norm_attend(x)) + mlp(norm_attend(x)))               # parallel

    Post-norm is that of the paper (Vaswani et al., 2017, arXiv:1706.03762) and PyTorch's default,
    pre-norm that of GPT-2 and most since, and the parallel block that of GPT-J and PaLM. With
    causal attention it is the block of a decoder without a memory, and streams.

    Args:
      attend: ``SelfAttention(...)``, or another layer that keeps the shape.
      mlp: such as ``serial(Dense(64), jax.nn.relu, Dense(16))``.
      norm: the layer of which each norm is a copy; ``LayerNorm()`` if None.
      norm_first: whether the norm is before a layer and not after the sum.
      parallel: whether both layers have one input; needs ``norm_first``.
      dropout_rate: the probability of dropping a value of what is added, in training.

    Shapes:
      x: (batch, time, features), or ``{"x": x, "mask": mask, "bias": bias}`` for the attention. y:
      of the shape and dtype of ``x``.
      params: those of norm_attend, attend, norm_mlp (not where ``parallel``) and mlp.

    Raises:
      LayerError: for a parallel block with the norm after it, a layer that does not keep the
        shape, and ``train=True`` without a key where values are dropped.

    >>> import jax, jlayers as jl
    >>> mlp = jl.serial(jl.Dense(64), jax.nn.relu, jl.Dense(16))
    >>> block = jl.TransformerBlock(jl.SelfAttention(2, causal=True), mlp)
    >>> jl.out_spec(block, jl.spec((3, 10, 16))).shape
    (3, 10, 16)
    """
    if parallel and not norm_first:
        raise LayerError("the norm of a parallel block is before it", hint="norm_first=True")
    layers = {"attend": attend, "mlp": mlp}
    if parallel:
        return _block(_with_norms(layers, norm, dropout_rate, ("attend",)), _parallel)
    body = _first if norm_first else _after
    return _block(_with_norms(layers, norm, dropout_rate, ("attend", "mlp")), body)


@factory
def TransformerDecoderBlock(
    attend: LayerOrFunction,
    cross: LayerOrFunction,
    mlp: LayerOrFunction,
    *,
    norm: LayerOrFunction | None = None,
    norm_first: bool = True,
    dropout_rate: Fraction = 0.0,
) -> Layer:
    """``TransformerBlock`` with attention to a memory between the two: a decoder's block.

    ::

        x = x + drop(attend(norm_attend(x)))          # norm_first
        x = x + drop(cross((norm_cross(x), memory)))
        y = x + drop(mlp(norm_mlp(x)))

    and the norms after the sums otherwise (Vaswani et al., 2017, arXiv:1706.03762). The output is y
    alone: ``branch(block, lambda x: x[1])`` hands the memory on.

    Args:
      attend: ``SelfAttention(..., causal=True)``.
      cross: ``CrossAttention(...)``.
      mlp, norm, norm_first, dropout_rate: as for ``TransformerBlock``.

    Shapes:
      x: the pair (x, memory), (batch, time, features) and (batch, steps, of memory); or a dict of
      ``"x"`` and ``"memory"`` with a ``"mask"``, ``"bias"`` or ``"relative_bias"`` for ``attend``,
      a ``"memory_mask"`` or ``"memory_bias"`` for ``cross``. y: of the shape and dtype of x.
      params: those of norm_attend, attend, norm_cross, cross, norm_mlp and mlp.

    Raises:
      LayerError: for another input, a layer that does not keep the shape, and ``train=True``
        without a key where values are dropped.

    >>> import jax, jlayers as jl
    >>> mlp = jl.serial(jl.Dense(64), jax.nn.relu, jl.Dense(16))
    >>> attend, cross = jl.SelfAttention(2, causal=True), jl.CrossAttention(2)
    >>> block = jl.TransformerDecoderBlock(attend, cross, mlp)
    >>> jl.out_spec(block, (jl.spec((3, 10, 16)), jl.spec((3, 7, 8)))).shape
    (3, 10, 16)
    """
    layers = {"attend": attend, "cross": cross, "mlp": mlp}
    children = _with_norms(layers, norm, dropout_rate, tuple(layers))
    return _block(children, _first if norm_first else _after)


def _with_norms(
    layers: Mapping[str, LayerOrFunction],
    norm: LayerOrFunction | None,
    dropout_rate: float,
    normed: tuple[str, ...],
) -> dict[str, Layer]:
    """The children in the order of their use: a norm, a layer and a dropout for each."""
    children = {}
    for name, layer in layers.items():
        if name in normed:
            children[f"norm_{name}"] = lift_child("norm", LayerNorm() if norm is None else norm)
        children[name] = lift_child(name, layer)
        if dropout_rate and name in normed:
            children[f"drop_{name}"] = Dropout(dropout_rate)
    return children


def _block(children: Mapping[str, Layer], body: Any) -> Layer:
    return composite(body, children, rebuild=lambda new: _block(new, body))


def _first(f: Scope, given: PyTree) -> PyTree:
    x, inputs = _parts(f, given)
    for name, of in inputs.items():
        x = residual_sum(x, _dropped(f, name, f[name](of(f[f"norm_{name}"](x)))))
    return x


def _after(f: Scope, given: PyTree) -> PyTree:
    x, inputs = _parts(f, given)
    for name, of in inputs.items():
        x = f[f"norm_{name}"](residual_sum(x, _dropped(f, name, f[name](of(x)))))
    return x


def _parallel(f: Scope, given: PyTree) -> PyTree:
    x, inputs = _parts(f, given)
    hidden = f["norm_attend"](x)
    both = residual_sum(f["mlp"](hidden), f["attend"](inputs["attend"](hidden)))
    return residual_sum(x, _dropped(f, "attend", both))


def _dropped(f: Scope, name: str, y: PyTree) -> PyTree:
    return f[f"drop_{name}"](y) if f"drop_{name}" in f.children else y


def _parts(f: Scope, given: PyTree) -> tuple[PyTree, dict[str, Callable[[PyTree], PyTree]]]:
    """x, and for each layer in order what it is called with instead of x."""
    inputs: dict[str, Callable[[PyTree], PyTree]] = {"attend": lambda x: x, "mlp": lambda x: x}
    if "cross" not in f.children:
        if not isinstance(given, dict):
            return given, inputs
        # What else is in it is for the attention to judge.
        x = given.get("x", given)
        return x, inputs | {"attend": lambda x: given | {"x": x}}
    beside = ("mask", "bias", "relative_bias")
    known = {"x", "memory", *beside, "memory_mask", "memory_bias"}
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"x": given[0], "memory": given[1]}
    if not isinstance(given, dict) or not {"x", "memory"} <= set(given) <= known:
        raise LayerError(
            "takes a pair",
            expected="(x, memory), or a dict of these with 'mask', 'bias', 'relative_bias', "
            "'memory_mask' or 'memory_bias'",
            got=format_spec(specs_of(given)),
        )
    own = {name: given[name] for name in beside if name in given}
    if own:
        inputs["attend"] = lambda x: {"x": x, **own}
    names = [name for name in ("mask", "bias") if f"memory_{name}" in given]
    pairs = {"memory": given["memory"]} | {name: given[f"memory_{name}"] for name in names}
    inputs["cross"] = lambda x: {"x": x, **pairs}
    return given["x"], {name: inputs[name] for name in ("attend", "cross", "mlp")}
