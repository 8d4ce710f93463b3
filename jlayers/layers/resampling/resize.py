"""Resize: an image with other sizes, by interpolation."""

from __future__ import annotations

import math

import jax

from ... import core
from ...base import arguments
from ...base.arguments import Number, Sizes
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params
from ...core.dtypes import is_symbolic
from ...core.resampling import COORDINATES, METHODS, ROUNDINGS, Interpolation, weights_repeat
from .base import IMAGE, Factors, check_word, spatial


@factory
def Resize(
    sizes: Sizes | None = None,
    *,
    factor: Factors | None = None,
    method: str = "nearest",
    coordinates: str = "half_pixel",
    antialias: bool = False,
    coefficient: Number = -0.75,
    exclude_outside: bool | None = None,
    rounding: str | None = None,
) -> Layer:
    """The image with spatial axes of other sizes, or ``factor`` times as large.

    Args:
      sizes: an int for all spatial axes, or one for each.
      factor: likewise, in place of ``sizes``; of a fraction, the new size is rounded down, and
        neighbouring outputs are ``1 / factor`` apart, as in PyTorch (where
        ``recompute_scale_factor=True`` has them ``in / out`` apart, as ``sizes`` has).
      method: ``"nearest"``, ``"linear"`` (along each axis: bilinear, trilinear), ``"cubic"``,
        ``"area"`` (``AdaptiveAvgPool``, which has no options), ``"lanczos3"`` or ``"lanczos5"``.
      coordinates: where an output lies among the inputs. ``"half_pixel"``: both images have the
        same edges, as in Keras, JAX and PyTorch (whose ``"nearest"`` is ``"asymmetric"``, and whose
        ``"nearest-exact"`` is this). ``"align_corners"``: the centres of their outermost pixels are
        the same. ``"asymmetric"``: output i lies at ``i * in / out``.
      antialias: whether an output is the mean of all that it covers, where the image becomes
        smaller.
      coefficient: of the cubic; -0.75 as in PyTorch, -0.5 in JAX and Keras.
      exclude_outside: whether pixels beyond the edges are left out, as by JAX and Keras, or the
        outermost ones repeated, as by PyTorch. By default they are left out with ``antialias``, as
        by PyTorch, and by Lanczos kernels; ONNX repeats there as well.
      rounding: of the place of a ``"nearest"`` neighbour: ``"floor"`` (by default with
        ``"asymmetric"``), ``"ceil"``, ``"half_up"`` (by default else) or ``"half_down"``.

    Shapes:
      x: (batch, *spatial, channels), floating; of any dtype for ``"nearest"``.
      y: (batch, *sizes, channels), of the dtype of ``x``.

    Raises:
      LayerError: with neither or both of ``sizes`` and ``factor``, for an unknown method,
        coordinates or rounding, and an input of another rank, with an empty axis, or with one
        without a known size, unless it is multiplied by a whole factor whose weights repeat. A
        ``Sequence`` is refused where its first spatial axis, time, changes.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
    >>> jl.Resize(factor=2, method="linear").apply({}, {}, x)[0].ravel().tolist()
    [1.0, 1.5, 2.5, 3.0]
    """
    if (sizes is None) == (factor is None):
        raise LayerError("takes sizes or factor", hint="Resize((64, 64)), or Resize(factor=2)")
    check_word("method", method, METHODS)
    check_word("coordinates", coordinates, COORDINATES)
    if rounding is not None:
        check_word("rounding", rounding, tuple(ROUNDINGS))
    interpolation = Interpolation(
        method, coordinates, antialias, coefficient, exclude_outside, rounding
    )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        if sizes is None:
            assert factor is not None
            factors = spatial(x, factor, "factor")
            check(x)
            # Whole factors say the same by the sizes, which may be symbolic.
            scales = [None if isinstance(f, int) else 1 / f for f in factors]
            return core.resize(x, scaled(x, factors), interpolation, scales)
        wanted = spatial(x, sizes, "sizes")
        check(x)
        ones = method == "area" and set(wanted) == {1}
        if is_symbolic(*x.shape[1:-1]) and not ones:
            raise LayerError(f"sizes {sizes} of an axis without a known size", got=format_spec(x))
        return core.resize(x, wanted, interpolation)

    def check(x: jax.Array) -> None:
        # A nearest neighbour is a value as it is.
        if method != "nearest":
            arguments.floating(x)
            arguments.real(x)
        arguments.not_empty(x, IMAGE)

    def scaled(x: jax.Array, factors: tuple[float, ...]) -> tuple[int, ...]:
        pairs = [*zip(x.shape[1:-1], factors, strict=True)]
        # A symbolic size is multiplied by whole numbers alone.
        whole = all(f == 1 for f in factors) or weights_repeat(interpolation)
        if any(is_symbolic(n) and not (isinstance(f, int) and whole) for n, f in pairs):
            raise LayerError(f"factor {factor} of an axis without a known size", got=format_spec(x))
        sizes = tuple(n * f if isinstance(f, int) else math.floor(n * f) for n, f in pairs)
        if any(not is_symbolic(n) and n == 0 for n in sizes):
            raise LayerError(f"factor {factor} leaves no pixel", got=format_spec(x))
        return sizes

    # Where time keeps its size, each step is resized by itself: that is found out.
    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)
