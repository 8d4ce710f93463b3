"""What several of the networks are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.nn import initializers

from ..base.constructors import LayerOrFunction
from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.specs import format_short
from ..base.types import Initializer, PyTree
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..layers import BatchNorm, Conv, Dense, Dropout, GlobalAvgPool

# Children by their names.
Parts = dict[str, Any]
# He et al., 2015, arXiv:1502.01852, as in torchvision.
HE = initializers.variance_scaling(2.0, "fan_out", "normal")
# That of the papers; jax.nn.gelu is by default Hendrycks's approximation by tanh.
exact_gelu = functools.partial(jax.nn.gelu, approximate=False)


def conv_norm(
    features: int,
    size: int,
    *,
    strides: int = 1,
    padding: str | int | None = None,
    groups: int = 1,
    activation: LayerOrFunction | None = None,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    kernel_init: Initializer = HE,
) -> Layer:
    """A convolution without a bias, and batch norm; padded by ``size // 2`` on all sides."""
    conv = Conv(
        features,
        (size, size),
        strides=strides,
        padding=size // 2 if padding is None else padding,
        groups=groups,
        bias=False,
        kernel_init=kernel_init,
    )
    norm = BatchNorm(momentum=momentum, epsilon=epsilon)
    return serial(conv=conv, norm=norm, **_if_any(activation=activation))


def classifier(
    features: Parts,
    classes: int | None,
    dropout_rate: float = 0.0,
    kernel_init: Initializer = initializers.glorot_uniform(),
    **after_mean: LayerOrFunction,
) -> Layer:
    """The mean over the image and a dense layer behind ``features``; these alone if ``classes`` is
    None."""
    if classes is None:
        return serial(**features)
    drop = Dropout(dropout_rate) if dropout_rate else None
    head = Dense(classes, kernel_init=kernel_init)
    return serial(**features, mean=GlobalAvgPool(), **after_mean, **_if_any(drop=drop), head=head)


def network(hidden: int, features: int, act: LayerOrFunction, kernel_init: Initializer) -> Layer:
    """The network of a transformer's step, of two dense layers."""
    expand, contract = (Dense(size, kernel_init=kernel_init) for size in (hidden, features))
    return serial(expand=expand, act=act, contract=contract)


def gated_network(
    act: Callable[[PyTree], PyTree], gate: Layer, up: Layer, down: Layer, drop_rate: float = 0.0
) -> Layer:
    """``down(act(gate(x)) * up(x))`` (Shazeer, 2020, arXiv:2002.05202)."""

    def body(f: Scope, x: PyTree) -> PyTree:
        inner = act(f["gate"](x)) * f["up"](x)
        return f["down"](f["drop"](inner) if drop_rate else inner)

    drop = Dropout(drop_rate) if drop_rate else None
    return compose(body, gate=gate, up=up, **_if_any(drop=drop), down=down)


def preset(name: str, value: Any, known: Iterable[Any]) -> Any:
    """``value``, which must be one of the ``known`` ones."""
    if isinstance(value, str | int) and value in known:
        return value
    raise LayerError(f"unknown {name} {format_short(value)}", expected=", ".join(map(repr, known)))


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, that is not less than nine tenths of ``channels``."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _if_any(**layers: LayerOrFunction | None) -> Parts:
    return {name: layer for name, layer in layers.items() if layer is not None}
