"""Laws 5 and 6: derivatives of a layer, by every route, in float64.

One program gives the value and all derivatives at one point in one direction. Run at the point, in
two directions, and to both sides of it, it gives all that the laws compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.types import PyTree
from .cases import Case
from .trees import as_float, dot, floats_of, item, map_numpy, moved, random_like, with_floats

_FLOAT64 = {"rtol": 1e-6, "atol": 1e-8}
# Of differences. A longer step crosses kinks (clipped gates have many) and sees the third
# derivative; a shorter one loses digits.
_NEAR = {"rtol": 1e-5, "atol": 1e-6}
_STEP = 2e-7


class _Derivatives(NamedTuple):
    """Of a loss at a point, along a direction."""

    value: Any
    slope: Any
    gradient: Any
    curvature: Any
    # Of the rematerialised loss, by vmap: at another point and at this one.
    gradients: Any


def check_derivatives(case: Case, differences: bool = True) -> None:
    """Compares derivatives by different routes, and with differences, in each mode."""
    with jax.enable_x64(True):
        # A difference quotient keeps about half of the digits: of float32's there would be too few.
        x = as_float(case.x, jnp.float64)
        specs = jax.eval_shape(case.layer.init, case.key, x)
        params, state = jax.tree.map(_in_float64, (case.params, case.state), specs)
        at = {"params": params, "x": floats_of(x)}
        if not floats_of(at):
            return
        for train in case.modes:
            _check(case, _program(case, state, x, train), at, train, differences)


def _in_float64(leaf: Any, spec: jax.ShapeDtypeStruct) -> Any:
    """What ``init`` makes for an input in float64, with every float as wide."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    wide = np.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else spec.dtype
    return np.asarray(leaf).astype(wide)


def _program(case: Case, state: PyTree, x: PyTree, train: bool) -> Callable[..., _Derivatives]:
    def loss(at: PyTree) -> jax.Array:
        x_at = with_floats(at["x"], x)
        y, _ = case.programs[train].once(at["params"], state, x_at, case.key)
        # Integers beside them, the edges of a graph, have no derivatives.
        leaves = floats_of(y)
        # The sine makes the loss curved, so that a linear layer has a Hessian too; the weights tell
        # the outputs apart, whose errors could cancel in a plain sum.
        weights = random_like(leaves, 1)
        terms = (jnp.sum(jnp.sin(a) * w) for a, w in zip(leaves, weights, strict=True))
        return sum(terms, jnp.zeros(()))

    def derivatives(at: PyTree, direction: PyTree) -> _Derivatives:
        value, slope = jax.jvp(loss, (at,), (direction,))
        gradient, curvature = jax.jvp(jax.grad(loss), (at,), (direction,))
        # Two different points: a rule for vmap that mixes them gives a wrong gradient at this one.
        points = jax.tree.map(lambda *leaves: jnp.stack(leaves), direction, at)
        gradients = jax.vmap(jax.grad(jax.checkpoint(loss)))(points)
        return _Derivatives(value, slope, gradient, curvature, gradients)

    return jax.jit(derivatives)


def _check(
    case: Case, program: Callable[..., _Derivatives], at: PyTree, train: bool, differences: bool
) -> None:
    u, v = random_like(at, 2), random_like(at, 3)
    points = ((at, v), (at, u), (moved(at, v, _STEP), v), (moved(at, v, -_STEP), v))
    here, along_u, after, before = (map_numpy(np.asarray, program(*point)) for point in points)
    mode = "in training" if train else "out of training"
    case.same(5, f"jvp against grad {mode}", here.slope, dot(here.gradient, v), **_FLOAT64)
    again = item(here.gradients, 1)
    case.same(5, f"vmap of grad of remat {mode}", again, here.gradient, **_FLOAT64)
    along_v = dot(here.curvature, u)
    symmetric = (along_v, dot(along_u.curvature, v))
    case.same(5, f"symmetry of the Hessian {mode}", *symmetric, **_FLOAT64)
    if not differences:
        return
    slope = (after.value - before.value) / (2 * _STEP)
    case.same(6, f"gradient against differences {mode}", here.slope, slope, **_NEAR)
    curvature = (dot(after.gradient, u) - dot(before.gradient, u)) / (2 * _STEP)
    case.same(6, f"Hessian against differences {mode}", along_v, curvature, **_NEAR)
