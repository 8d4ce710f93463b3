"""A row in a JAX framework, as a pure function, and the program that is compiled from it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..agreement import disagreement
from ..data import vjp
from ..hlo import hlo_text
from ..ops.attention import hides_more, visible
from ..ops.recurrent import layer_inputs
from ..program import Program, Task
from ..row import Row
from .step import compile_timed
from .weights import own_names


class JaxOp(NamedTuple):
    """A row in a JAX framework, as a pure function that is jitted unchanged.

    Args:
      apply: (params, x, *extra) to y, or to (y, anything) with ``aux``.
      convert: the canonical weights to the framework's own parameters. It only moves values, so
        that it also takes canonical gradients to the framework's own.
      extra: more arguments that are not constants of the program: keys, running statistics.
      aux: whether ``apply`` gives more than y.
      channels_first: whether x and y have the channels before the spatial axes.
    """

    apply: Callable[..., Any]
    convert: Callable[[Any], Any] = own_names
    extra: tuple[Any, ...] = ()
    aux: bool = False
    channels_first: bool = False

    def program(self, task: Task) -> Program:
        data, forward = task.data, task.mode == "forward"
        params = jax.tree.map(jnp.asarray, self.convert(data.weights))
        x = jax.tree.map(self._inward, data.x)
        cotangent = () if forward else (self._inward(data.cotangent),)
        arguments = (params, x, *cotangent, *jax.device_put(self.extra))
        program = jax.jit(self._forward if forward else self._gradient)
        compiled, *figures = compile_timed(program, *arguments)
        digest = hashlib.sha256(hlo_text(compiled).encode()).hexdigest()[:16]

        def run(times: int = 1) -> Any:
            # An earlier result is dropped, and its memory with it, as soon as the next is queued.
            result = program(*arguments)
            for _ in range(times - 1):
                result = program(*arguments)
            return jax.block_until_ready(result)

        def disagrees(tolerance: float) -> str | None:
            y, *gradients = run()
            got = (self._outward(y),)
            if gradients:
                params_gradient, x_gradient = gradients
                got += params_gradient, jax.tree.map(self._outward, x_gradient)
            return disagreement(got, task.expected(got[0], self.convert), tolerance)

        return Program(run, disagrees, *figures, digest)

    def _forward(self, params: Any, x: Any, *extra: Any) -> tuple[Any]:
        result = self.apply(params, x, *extra)
        return (result[0] if self.aux else result,)

    def _gradient(self, params: Any, x: Any, cotangent: Any, *extra: Any) -> Any:
        y, pull_back = vjp(lambda p, x: self.apply(p, x, *extra), params, x, has_aux=self.aux)
        return y, *pull_back(cotangent)

    def _inward(self, value: Any) -> jax.Array:
        return jnp.asarray(np.moveaxis(value, -1, 1) if self.channels_first else value)

    def _outward(self, value: Any) -> np.ndarray:
        value = np.asarray(value)
        return np.moveaxis(value, 1, -1) if self.channels_first else value

    @staticmethod
    def chain(parts: Sequence["JaxOp"]) -> "JaxOp":
        """One after the other; the weights are a tuple."""

        def apply(params: Any, x: Any) -> Any:
            for part, own in zip(parts, params, strict=True):
                x = part.apply(own, x)
            return x

        return JaxOp(apply, _each(parts), channels_first=parts[0].channels_first)


def attention(function: Callable[..., Any], causal: str = "is_causal") -> Callable[[Row], JaxOp]:
    """An attention row from a function of (queries, keys, values).

    Args:
      function: with the option that ``causal`` names, and ``mask``: what a window or lengths hide.
    """

    def build(row: Row) -> JaxOp:
        if not hides_more(row):
            return JaxOp(lambda params, x: function(*x, **{causal: row["causal"]}))
        # An argument of the program: as a constant, XLA would fold what is computed from it.
        return JaxOp(lambda params, x, mask: function(*x, mask=mask), extra=(visible(row),))

    return build


def side_by_side(parts: Sequence[JaxOp]) -> JaxOp:
    """All on the same input, joined along the last axis; the weights are a tuple."""

    def apply(params: Any, x: Any) -> Any:
        ys = [part.apply(own, x) for part, own in zip(parts, params, strict=True)]
        return ys[0] if len(ys) == 1 else jnp.concatenate(ys, axis=-1)

    return JaxOp(apply, _each(parts))


def _each(parts: Sequence[JaxOp]) -> Callable[[Any], Any]:
    def convert(weights: Any) -> Any:
        return tuple(part.convert(own) for part, own in zip(parts, weights, strict=True))

    return convert


def stacked(one: Callable[[Row, int, bool], JaxOp], row: Row) -> JaxOp:
    """A recurrent row, by layer and direction from ``one(row, channels, reverse)``."""
    directions: Sequence[bool] = (False, True) if row["bidirectional"] else (False,)
    layers = [[one(row, size, reverse) for reverse in directions] for size in layer_inputs(row)]
    return JaxOp.chain([side_by_side(layer) for layer in layers])
