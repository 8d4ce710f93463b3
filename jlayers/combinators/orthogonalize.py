"""Orthogonal kernels: whatever the parameters are, the columns have length 1 and right angles."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg

from ..base.arguments import one_of
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.patterns import Patterns, each_pattern
from ..core.dtypes import at_least_float32
from ..core.weights import Weight, array_of, lazy, static
from .transparent import Parts, made_from, with_lazy_weights


@factory
def orthogonalize_weights(
    layer: LayerOrFunction, pattern: Patterns = "**/*kernel", *, method: str = "householder"
) -> Layer:
    """The layer with orthogonal kernels, which stay orthogonal whatever a gradient step does.

    A kernel is taken as a matrix of all its axes by the last. Its columns get length 1 and right
    angles to each other, or its rows, where there are no more of them than columns. The parameter
    has the kernel's shape, and what is below its diagonal, of rows above it, says which orthogonal
    matrix it is, in every call:

    * ``"householder"``: the product of reflections, one for each column, whose vectors are the
      columns below a diagonal of ones; the signs of the diagonal are those of the columns (Mhammedi
      et al., 2017, arXiv:1612.00188). It starts as the orthogonal factor of the initial kernel: as
      the kernel itself with ``kernel_init=jax.nn.initializers.orthogonal()``.
    * ``"matrix_exp"``: ``exp(a - a')`` (Lezcano-Casado & Martinez-Rubio, 2019, arXiv:1901.08428).
    * ``"cayley"``: ``(I - (a - a') / 2)^-1 (I + (a - a') / 2)`` (Helfrich et al., 2018,
      arXiv:1707.09520).

    The last two take a square matrix of the larger size, of which the first columns are kept; they
    start from the kernel's own draw, and are rotations: their determinant is 1.

    Args:
      layer: a layer with kernels, or any model with some in it.
      pattern: paths of parameters, one or a tuple, by default of all kernels;
        ``"**/recurrent_kernel"`` of an RNN.
      method: one of the three.

    Raises:
      LayerError: for another method; for a pattern that fits no parameter, or one of one axis.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.orthogonalize_weights(jl.Dense(3, bias=False))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> kernel, _ = layer.apply(params, state, jnp.eye(4))
    >>> bool(jnp.allclose(kernel.T @ kernel, jnp.eye(3), atol=1e-5))
    True
    """
    one_of("method", method, tuple(_METHODS))

    def parts(spec: ParamSpec) -> Parts:
        if method != "householder":
            return Parts()
        # Other initial values under the same path.
        return Parts({"": made_from(spec, _reflections, spec.shape_of_one)})

    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        lambda new: orthogonalize_weights(new, pattern, method=method),
        lambda kernel: Orthogonal(kernel, method),
        parts=parts,
    )


@lazy
class Orthogonal(Weight):
    """The orthogonal matrix that a method makes of the kernel."""

    method: str = static()

    def made(self) -> jax.Array:
        return _as_tall(_METHODS[self.method], array_of(self.kernel))


def _as_tall(function: Callable[[jax.Array], jax.Array], kernel: jax.Array) -> jax.Array:
    """``function`` of the kernel as a matrix of as many rows as columns or more."""
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(at_least_float32(kernel.dtype))
    # A square one too: PyTorch's weight is the transpose.
    wide = matrix.shape[0] <= matrix.shape[1]
    made = function(matrix.T).T if wide else function(matrix)
    return made.reshape(kernel.shape).astype(kernel.dtype)


def _householder(matrix: jax.Array) -> jax.Array:
    # A product of reflections is I - v inverse(t) v', in which t is the part of v'v above its
    # diagonal and half of that (Joffrain et al., 2006): two products of matrices and a triangular
    # system in place of one reflection after another.
    rows, columns = matrix.shape
    v = jnp.tril(matrix, -1) + jnp.eye(rows, columns, dtype=matrix.dtype)
    products = v.T @ v
    t = jnp.triu(products, 1) + jnp.diag(jnp.diagonal(products) / 2)
    first = linalg.solve_triangular(t, v[:columns].T)
    made = jnp.eye(rows, columns, dtype=matrix.dtype) - v @ first
    signs = jnp.where(jnp.diagonal(matrix) < 0, -1, 1).astype(matrix.dtype)
    return made * signs[None]


def _reflections(kernel: jax.Array) -> jax.Array:
    """The parameter from which ``_householder`` makes the kernel's orthogonal factor."""

    def of_columns(matrix: jax.Array) -> jax.Array:
        found, lengths = jnp.linalg.qr(matrix, mode="raw")
        found = found.T  # LAPACK's columns are rows here
        # LAPACK leaves a column of zeros as it is, where a reflection here turns an axis round.
        signs = jnp.where(jnp.diagonal(found) < 0, -1, 1) * jnp.where(lengths == 0, -1, 1)
        rows, columns = matrix.shape
        return jnp.tril(found, -1) + jnp.eye(rows, columns, dtype=matrix.dtype) * signs[None]

    return _as_tall(of_columns, kernel)


def _skew(matrix: jax.Array) -> jax.Array:
    rows, columns = matrix.shape
    lower = jnp.pad(jnp.tril(matrix, -1), ((0, 0), (0, rows - columns)))
    return lower - lower.T


def _matrix_exp(matrix: jax.Array) -> jax.Array:
    made: jax.Array = linalg.expm(_skew(matrix))
    return made[:, : matrix.shape[1]]


def _cayley(matrix: jax.Array) -> jax.Array:
    half, one = _skew(matrix) / 2, jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    made: jax.Array = jnp.linalg.solve(one - half, (one + half)[:, : matrix.shape[1]])
    return made


_METHODS = {"householder": _householder, "matrix_exp": _matrix_exp, "cayley": _cayley}
