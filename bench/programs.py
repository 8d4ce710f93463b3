"""A contender as two compiled programs: forward, and forward with all gradients."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .agreement import disagreement
from .contenders import Contender
from .data import Data, floating
from .hlo import hlo_text

MODES = ("forward", "gradient")


class Program(NamedTuple):
    """A program that is ready to be timed.

    Args:
      run: one call, waited for.
      disagrees: runs it and says where its results are wrong; None where they are right.
      trace, compile: seconds that these took, None where there is no such thing.
      temp_bytes: what the executable allocates for a call beside its arguments and results.
      digest: of the compiled program without its names; those with the same one run the same.
    """

    run: Callable[[], Any]
    disagrees: Callable[[float], str | None]
    trace: float | None
    compile: float | None
    temp_bytes: int | None
    digest: str | None = None


class Asked(NamedTuple):
    """What to make of a row: its name, mode and data, the operation's judge or None."""

    mode: str
    data: Data
    judge: Any


def prepare(contender: Any, asked: Asked) -> Program:
    """The program of a contender for a mode, traced and compiled."""
    if isinstance(contender, Contender):
        return _jax(contender, asked)
    from .contenders.torch import program

    return program(contender, asked)


def wanted(asked: Asked, y: Any, convert: Callable[[Any], Any]) -> Any:
    """What a program must give: y, and by mode the gradients of parameters and input."""
    data = asked.data
    right, x_gradient = data.y, data.x_gradient
    if asked.judge is not None:
        right, x_gradient = asked.judge(data.x, data.cotangent, y)
    if asked.mode == "forward":
        return (right,)
    return right, convert(data.weight_gradients), x_gradient


def _jax(contender: Contender, asked: Asked) -> Program:
    data = asked.data
    inner = _channels_first if contender.channels_first else _as_they_are
    outer = _channels_last if contender.channels_first else _as_they_are
    params = jax.tree.map(jnp.asarray, contender.convert(data.weights))
    x = jax.tree.map(lambda value: jnp.asarray(inner(value)), data.x)
    extra = jax.device_put(contender.extra)
    forward = asked.mode == "forward"
    if forward:
        function, arguments = _forward(contender), (params, x, *extra)
    else:
        pulled = jnp.asarray(inner(data.cotangent))
        function, arguments = _gradient(contender, x), (params, x, pulled, *extra)
    program = jax.jit(function)
    start = time.perf_counter()
    lowered = program.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()

    def run() -> Any:
        return jax.block_until_ready(program(*arguments))

    def disagrees(tolerance: float) -> str | None:
        y, *gradients = run()
        got = (outer(np.asarray(y)),)
        if not forward:
            params_gradient, x_gradient = gradients
            got += params_gradient, jax.tree.map(lambda value: outer(np.asarray(value)), x_gradient)
        return disagreement(got, wanted(asked, got[0], contender.convert), tolerance)

    temp_bytes = None if memory is None else int(memory.temp_size_in_bytes)
    digest = hashlib.sha256(hlo_text(compiled).encode()).hexdigest()[:16]
    return Program(run, disagrees, traced - start, done - traced, temp_bytes, digest)


def _forward(contender: Contender) -> Callable[..., Any]:
    def forward(params: Any, x: Any, *extra: Any) -> Any:
        result = contender.apply(params, x, *extra)
        return result if contender.aux else (result,)

    return forward if not contender.aux else lambda *arguments: forward(*arguments)[:1]


def _gradient(contender: Contender, x: Any) -> Callable[..., Any]:
    differentiable = floating(x)

    def gradient(params: Any, x: Any, cotangent: Any, *extra: Any) -> Any:
        def of(params: Any, x: Any) -> Any:
            return contender.apply(params, x, *extra)

        if differentiable:
            y, pull, *_ = jax.vjp(of, params, x, has_aux=contender.aux)
            return y, *pull(cotangent)
        y, pull, *_ = jax.vjp(lambda params: of(params, x), params, has_aux=contender.aux)
        return y, *pull(cotangent), None

    return gradient


def _as_they_are(value: Any) -> Any:
    return value


def _channels_first(value: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(value, -1, 1))


def _channels_last(value: Any) -> Any:
    return np.moveaxis(value, 1, -1)
