"""What a file may name: the layers of jlayers, and functions of JAX that only compute.

A file is not trusted: ``functools.partial(jnp.save, "path")`` would be a layer that writes. So
functions are here one by one; layers are all public factories, none of which touches a file.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ..base.constructors import lift
from ..base.layer import Layer
from ..combinators.modes import _inference
from ..transforms.casts import layer_in_precision
from ..transforms.clip_gradients import clipped_layer
from ..transforms.stop_gradient import stopped_layer

# fmt: off
_NN = """celu elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu
log_sigmoid log_softmax logsumexp mish normalize one_hot relu relu6 selu sigmoid silu soft_sign
softmax softplus sparse_plus sparse_sigmoid squareplus standardize swish tanh"""
_JNP = """abs absolute acos acosh add all any arccos arccosh arcsin arcsinh arctan arctanh argmax
argmin argsort asin asinh astype atan atanh broadcast_to cbrt ceil clip concatenate conj cos cosh
cumprod cumsum deg2rad diff divide equal exp exp2 expand_dims expm1 fabs fix flip floor greater
greater_equal heaviside hypot imag invert isfinite isinf isnan less less_equal log log10 log1p log2
logaddexp logical_and logical_not logical_or matmul max maximum mean median min minimum mod moveaxis
multiply nan_to_num negative not_equal ones_like positive power prod rad2deg ravel real reciprocal
repeat reshape rint roll round sign sin sinc sinh softmax sort split sqrt square squeeze stack std
subtract sum swapaxes take tan tanh tile trace transpose tril triu trunc var where zeros_like
bfloat16 bool_ complex64 complex128 float16 float32 float64 int8 int16 int32 int64 uint8 uint16
uint32 uint64"""
_LAX = """abs acos acosh add asin asinh atan atan2 atanh cbrt ceil clamp collapse conj cos cosh
cumlogsumexp cummax cummin cumprod cumsum digamma div erf erf_inv erfc exp exp2 expm1 floor imag
integer_pow is_finite lgamma log log1p logistic max min mul neg pow real rem reshape round rsqrt
sign sin sinh sqrt square stop_gradient sub tan tanh top_k transpose"""
_INITIALIZERS = """constant delta_orthogonal glorot_normal glorot_uniform he_normal he_uniform
kaiming_normal kaiming_uniform lecun_normal lecun_uniform normal ones orthogonal truncated_normal
uniform variance_scaling xavier_normal xavier_uniform zeros"""
_POLICIES = """checkpoint_dots checkpoint_dots_with_no_batch_dims dots_saveable
dots_with_no_batch_dims_saveable everything_saveable nothing_saveable"""
# fmt: on
_MODULES = (
    ("jax.nn", jax.nn, _NN),
    ("jax.numpy", jnp, _JNP),
    ("jax.lax", lax, _LAX),
    ("jax.nn.initializers", initializers, _INITIALIZERS),
    ("jax.checkpoint_policies", jax.checkpoint_policies, _POLICIES),
)


@functools.cache
def _functions() -> Mapping[str, Callable[..., Any]]:
    return {
        f"{prefix}.{name}": getattr(module, name)
        for prefix, module, names in _MODULES
        for name in names.split()
        if hasattr(module, name)
    }


def callable_of(name: object) -> Callable[..., Any] | None:
    """The function of JAX that a file may call so; None where there is none."""
    return _functions().get(name) if isinstance(name, str) else None


@functools.cache
def builders() -> Mapping[str, Callable[..., Any]]:
    """The factories of layers and models by name, and ``lift``, of a function."""
    public = sys.modules["jlayers"]
    found = {
        name: getattr(module, name)
        for module in (public.models, public.transforms, public)
        for name in module.__all__
    }
    makers = {name: value for name, value in found.items() if hasattr(value, "__jlayers_factory__")}
    # A class, and what transforms by path make of a selected layer.
    selected = {
        "clip_gradients": clipped_layer,
        "inference": _inference,
        "layer_in_precision": layer_in_precision,
        "stop_gradient": stopped_layer,
    }
    return {**makers, "lift": lift, "Cell": public.Cell, **selected}


def is_initializer(name: object) -> bool:
    """Whether it is a function that a file may call for a function: an initialiser's."""
    return isinstance(name, str) and name.startswith("jax.nn.initializers.")


@functools.cache
def values() -> Mapping[str, type]:
    """The classes of jlayers whose instances are arguments of layers, by name."""
    public = sys.modules["jlayers"]
    found = {
        name: getattr(module, name)
        for module in (public.transforms, public)
        for name in module.__all__
    }
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type)
        and not issubclass(value, Layer)
        and (dataclasses.is_dataclass(value) or hasattr(value, "_fields"))
    }
