"""generate: decode under jit, one program for a model and a bucket of lengths."""

from __future__ import annotations

import weakref
from collections.abc import Sequence as Many
from typing import Any

import jax

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.sequence import Sequence
from ..base.specs import Params, State
from .decode import written
from .prompts import Prompt, bucket, check_ids, check_model, check_stop, checked
from .sampling import check_settings, sampler

_PROGRAMS: weakref.WeakKeyDictionary[Layer, Any] = weakref.WeakKeyDictionary()


@public_api
def generate(
    model: Layer,
    params: Params,
    state: State,
    prompt: Any,
    steps: int,
    *,
    key: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
    buckets: Many[int] | None = None,
) -> Sequence:
    """What a model writes after a prompt, in one compiled program.

    A layer is never compiled by jlayers, but this loop is: ``decode`` under ``jax.jit``, kept for
    as long as the model lives. It is compiled again for another number of rows, ``steps``,
    ``top_k``, ``stop`` or ``pad``, for a prompt of another bucket, and when ``temperature`` or
    ``top_p`` begins to be used; lengths and values are data.

    Args:
      model, params, state, prompt, steps, key, stop, pad: as for ``decode``.
      temperature: by which logits are divided before an id is drawn; at 0 the likeliest is taken,
        whatever the filters.
      top_k: draws from so many of the likeliest ids alone.
      top_p: draws from the likeliest ids that have this probability together.
      buckets: the lengths to which prompts are padded. By default 1, 2, 3, 5, 9, ...: what goes
        in as one block, all but the last ids, is then as long as a power of two. With ``()``
        prompts are taken as they come, and an array reaches the model without a mask.

    Returns:
      A ``Sequence`` of int32 ids, (batch, steps). A row is valid up to its first ``stop``, that
      one included.

    Raises:
      LayerError: as ``decode`` does, for a temperature, ``top_k`` or ``top_p`` that is none,
        without a key where one is needed, and for a prompt longer than all buckets.

    >>> import jax, jlayers as jl
    >>> from jlayers import decoding
    >>> model = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7))
    >>> prompt = jl.Sequence.from_rows([[1, 2, 3], [4]])
    >>> params, state = model.init(jax.random.key(0), prompt)
    >>> written = decoding.generate(
    ...     model, params, state, prompt, 5, temperature=0.8, top_p=0.9, key=jax.random.key(1))
    >>> written.shape, written.lengths.tolist()
    ((2, 5), [5, 5])
    """
    check_model(model)
    buckets = None if buckets is None else tuple(buckets)
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if isinstance(value, jax.core.Tracer):
            raise LayerError(f"{name} is traced", hint="decode(..., sampler(...)) inside jit")
    check_settings(temperature, top_k, top_p)
    found = checked(prompt)
    draws = temperature != 0
    if draws and key is None:
        raise LayerError(f"temperature {temperature} needs a key", hint="key=jax.random.key(0)")
    if key is not None:
        arguments.typed_key(key)
    length = bucket(found.ids.shape[1], buckets)
    pads = buckets is None or bool(buckets)
    if pads:
        found = found.padded(length)
    check_ids(model, found, check_stop(stop))
    numbers = {"temperature": float(temperature), "top_p": top_p}
    return _program(model)(  # type: ignore[no-any-return]
        params,
        state,
        found,
        key if draws else None,
        {name: value for name, value in numbers.items() if draws and value is not None},
        steps=arguments.positive("steps", steps),
        top_k=top_k if draws else None,
        stop=check_stop(stop),
        pad=arguments.integer("pad", pad),
    )


def _program(model: Layer) -> Any:
    """The model's program; it holds the model as weakly as the dict does."""
    found = _PROGRAMS.get(model)
    if found is not None:
        return found
    here = weakref.ref(model)

    def run(
        params: Params, state: State, prompt: Prompt, key: Any, numbers: Any, **settings: Any
    ) -> Sequence:
        living = here()
        assert living is not None
        top_k, steps = settings["top_k"], settings["steps"]
        choose = sampler(**({"temperature": 0.0} | numbers), top_k=top_k)
        stop, pad = settings["stop"], settings["pad"]
        return written(living, params, state, prompt, steps, choose, key, stop, pad)

    compiled = jax.jit(run, static_argnames=("steps", "top_k", "stop", "pad"))
    _PROGRAMS[model] = compiled
    return compiled
