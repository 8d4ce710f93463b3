"""generate: decode under jit, one program for a model and a bucket of lengths."""

from __future__ import annotations

import functools
from collections import abc

import jax

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.sequence import Sequence
from ..base.types import Params, PyTree, State
from ..sharding import Rules
from ..sharding.batches import AnyMesh
from .context import as_context
from .decode import Decoded, decode_prompt, reported
from .on_mesh import OnMesh, on_mesh
from .programs import program
from .prompts import (
    Prompt,
    PromptLike,
    as_prompt,
    bucket_length,
    check_ids,
    check_model,
    native_trees,
    pad_id,
    stop_ids,
)
from .sampling import check_settings, sampler


@public_api
def generate(
    model: Layer,
    params: Params,
    state: State,
    prompt: PromptLike,
    steps: int,
    *,
    context: PyTree = None,
    key: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
    buckets: abc.Sequence[int] | None = None,
    mesh: AnyMesh | None = None,
    rules: Rules | None = None,
) -> Sequence:
    """Continues a prompt, in one compiled program.

    jlayers never compiles a layer, but it compiles this loop: ``decode`` under ``jax.jit``, cached
    for as long as the model lives. It is compiled again for another number of rows, ``steps``,
    ``top_k``, ``stop`` or ``pad``, for a prompt of another bucket, and when ``temperature`` or
    ``top_p`` is used for the first time; lengths and values are data.

    Args:
      model, params, state, prompt, steps, context, key, stop, pad, mesh, rules: as for ``decode``.
      temperature: logits are divided by it before an id is drawn; at 0 the likeliest id is chosen,
        whatever the filters.
      top_k: draws from the ``top_k`` likeliest ids only.
      top_p: draws from the likeliest ids that together have this probability.
      buckets: the lengths to which prompts are padded. By default 1, 2, 3, 5, 9, ...: the block
        that the model reads first, all but the last ids, is then as long as a power of two. With
        ``()`` prompts are not padded, and an array reaches the model without a mask.

    Returns:
      A ``Sequence`` of int32 ids, (batch, steps). A row is valid up to its first ``stop``,
      inclusive.

    Raises:
      LayerError: as ``decode`` does, for an invalid temperature, ``top_k`` or ``top_p``, without a
        key where one is needed, for a prompt longer than all buckets, and for a row without an id
        to choose, because its logits hold NaN or ``inf`` or are all ``-inf``.

    >>> import jax, jlayers as jl
    >>> from jlayers import decoding
    >>> model = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7))
    >>> prompt = jl.Sequence.from_rows([[1, 2, 3], [4]])
    >>> params, state = model.init(jax.random.key(0), prompt)
    >>> generated = decoding.generate(
    ...     model, params, state, prompt, 5, temperature=0.8, top_p=0.9, key=jax.random.key(1))
    >>> generated.shape, generated.lengths.tolist()
    ((2, 5), [5, 5])
    """
    check_model(model)
    buckets = None if buckets is None else tuple(buckets)
    # Whether a traced number is 0, or valid at all, cannot be known here.
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if isinstance(value, jax.core.Tracer):
            raise LayerError(f"{name} is traced", hint="decode(..., sampler(...)) inside jit")
    check_settings(temperature, top_k, top_p)
    ids = as_prompt(prompt)
    params, state = native_trees(params, state)
    context = as_context(context, ids.ids.shape[0])
    draws = temperature != 0
    if draws and key is None:
        raise LayerError(f"temperature {temperature} needs a key", hint="key=jax.random.key(0)")
    if key is not None:
        arguments.typed_key(key)
    length = bucket_length(ids.ids.shape[1], buckets)
    if buckets is None or buckets:
        ids = ids.padded(length)
    # Before it is traced: afterwards the values are unknown.
    check_ids(model, ids, stop_ids(stop), context)
    # Traced as data. Which of them are used is part of the program: without top_p there is no sort.
    numbers = {"temperature": float(temperature), "top_p": top_p}
    given, where = (params, state, ids, key if draws else None, context), on_mesh(mesh, rules)
    decoded = program(model, _generate, "steps", "top_k", "stop", "pad", "where")(
        {name: value for name, value in numbers.items() if draws and value is not None},
        *(given if where is None else where.put(model, given)),
        steps=arguments.positive("steps", steps),
        top_k=top_k if draws else None,
        stop=stop_ids(stop),
        pad=pad_id(pad),
        where=where,
    )
    return reported(decoded)


def _generate(
    model: Layer,
    numbers: dict[str, jax.Array],
    params: Params,
    state: State,
    prompt: Prompt,
    key: jax.Array | None,
    context: PyTree,
    *,
    steps: int,
    top_k: int | None,
    stop: tuple[int, ...],
    pad: int,
    where: OnMesh | None,
) -> Decoded:
    # Without a temperature among the numbers, the choice is greedy.
    choose = sampler(numbers.get("temperature", 0.0), top_k, numbers.get("top_p"))
    run = functools.partial(decode_prompt, model, params, state, prompt, key, context)
    return run(steps=steps, choose=choose, stop=stop, pad=pad, where=where)
