"""What does one more token cost, where the cache holds as much as in use?

A transformer of 12 blocks of 512 after a long prompt, by ``jl.stream``, by Flax NNX's decoding, and
by hand with the layout that reads the cache in order. All have their cache donated, the same
weights and the same prompt, and count if they find the ids that follow as likely as the others do.
What is needed at least is to read the weights and what the cache holds once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

from .frameworks import Unavailable
from .frameworks.jlayers.models import block as one_block
from .frameworks.jlayers.models import with_blocks
from .frameworks.lax import decoding as by_hand
from .frameworks.optax_step import count as count_numbers
from .frameworks.sizes import Transformer
from .frameworks.step import Step, compile_timed
from .frameworks.weights import filled_tree, plain
from .measure import measure_step

Tree = Any
SIZE = Transformer(steps=2048, vocabulary=1000, width=512, heads=8, blocks=12)
# Of the cache's steps: the rest is for those that are timed.
PROMPT = 3 / 4
JUDGED = 3
# Without it XLA copies a cache that is read and then written.
IN_PLACE = {"xla_cpu_copy_insertion_use_region_analysis": True}


class Decoder(NamedTuple):
    """A framework's step.

    Args:
      step: (params, cache, ids (batch,)) to (logits (batch, vocabulary), cache).
      prompted: gives the cache after the prompt, a new one at each call.
      options: of the compiler, for that program alone.
    """

    step: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]]
    params: Tree
    prompted: Callable[[], Tree]
    options: dict[str, Any] | None = None


def model(size: Transformer) -> jl.Layer:
    tokens = jl.Embedding(size.vocabulary, size.width)
    return with_blocks(size, False, one_block(size), tokens=tokens)


def weights(size: Transformer) -> tuple[Tree, Tree]:
    """The parameters and the state of ``model``; not zero anywhere."""
    ids = jl.spec((size.batch, 1), jnp.int32)
    params, state = jax.jit(model(size).init)(jax.random.key(0), ids)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    noise = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    return jax.tree.map(
        lambda p, key: p + 0.02 * jax.random.normal(key, p.shape), params, noise
    ), state


def prompt_of(size: Transformer) -> jax.Array:
    rng = np.random.default_rng(0)
    shape = (size.batch, int(PROMPT * size.steps))
    return jnp.asarray(rng.integers(0, size.vocabulary, shape, np.int32))


def ours(size: Transformer) -> Decoder:
    params, state = weights(size)
    start, step = jl.stream(model(size), capacity=size.steps)
    prompt = prompt_of(size)

    def take(params: Tree, carry: Tree, ids: jax.Array) -> tuple[jax.Array, Tree]:
        y, carry = step(params, state, carry, ids[:, None])
        return y[:, 0], carry

    read = jax.jit(lambda carry: step(params, state, carry, prompt)[1], donate_argnums=0)
    return Decoder(take, params, lambda: read(start(params, state, prompt[:, :1])))


def hand_written(size: Transformer) -> Decoder:
    params, _ = weights(size)
    prompt, decode = prompt_of(size), partial(by_hand.decode, heads=size.heads)
    sizes = (size.blocks, size.batch, size.heads, size.steps, size.width // size.heads)
    read = jax.jit(lambda cache: decode(params, cache, prompt)[1], donate_argnums=0)
    return Decoder(
        lambda params, cache, ids: decode(params, cache, ids[:, None]),
        params,
        lambda: read(by_hand.empty_cache(*sizes)),
        IN_PLACE if jax.default_backend() == "cpu" else None,
    )


def nnx(size: Transformer) -> Decoder:
    """The cache after the prompt is that of the hand-written one: NNX takes one id at a time."""
    try:
        from flax import nnx as flax_nnx

        from .frameworks.nnx import layout
        from .frameworks.nnx.models import Decoder as Model
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from None
    module = Model(size, rngs=flax_nnx.Rngs(0))
    module.init_cache((size.batch, size.steps))
    arrays = by_part(weights(size)[0])
    pure = flax_nnx.to_pure_dict(flax_nnx.state(module, flax_nnx.Param))
    flax_nnx.update(module, flax_nnx.State(filled_tree(pure, arrays, layout)))
    graph, params, cache, rest = flax_nnx.split(module, flax_nnx.Param, flax_nnx.Cache, ...)

    def take(params: Tree, cache: Tree, ids: jax.Array) -> tuple[jax.Array, Tree]:
        merged = flax_nnx.merge(graph, params, cache, rest)
        return merged(ids[:, None])[:, 0], flax_nnx.state(merged, flax_nnx.Cache)

    def prompted() -> Tree:
        filled = hand_written(size).prompted()
        own = {
            f"blocks/{name.removeprefix('blocks_')}/attend/{ours}": jnp.swapaxes(kept[theirs], 1, 2)
            for name, kept in filled["blocks"].items()
            for ours, theirs in (("cached_key", "keys"), ("cached_value", "values"))
        }

        def value(path: Any, leaf: jax.Array) -> jax.Array:
            name = "/".join(str(getattr(key, "key", getattr(key, "name", ""))) for key in path)
            name = name.removesuffix("/value").strip("/")
            # A new array each time: it is donated.
            return own[name] if name in own else filled["count"] + jnp.zeros_like(leaf)

        return jax.tree.map_with_path(value, cache)

    return Decoder(take, params, prompted)


def by_part(params: Tree) -> dict[str, dict[str, Any]]:
    """Nested parameters as ``bench.frameworks.weights`` has them; projections are parts."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in jl.flatten(params).items():
        part, _, name = path.rpartition("/")
        projection, _, array = name.partition("_")
        if projection in ("query", "key", "value", "out"):
            part, name = f"{part}/{projection}", array
        found.setdefault(plain(part), {})[name] = value
    return found


def prepared(make: Callable[[Transformer], Decoder], size: Transformer) -> Step:
    """Its losses are the means of minus the logarithm of how likely the following ids are."""
    decoder, left = make(size), size.steps - int(PROMPT * size.steps)
    cache, taken = decoder.prompted(), 0
    ids = jnp.arange(size.batch, dtype=jnp.int32)
    jitted = jax.jit(decoder.step, donate_argnums=1, compiler_options=decoder.options)
    _, *figures = compile_timed(jitted, decoder.params, cache, ids)

    def run() -> jax.Array:
        """A full cache is replaced by that after the prompt."""
        nonlocal cache, taken
        if taken == left:
            cache, taken = decoder.prompted(), 0
        logits, cache = jitted(decoder.params, cache, ids)
        taken += 1
        return jax.block_until_ready((logits, cache))[0]

    losses = []
    for _ in range(JUDGED):
        log_p = jax.nn.log_softmax(run())
        losses.append(-float(jnp.take_along_axis(log_p, ids[:, None] + 1, 1).mean()))
    return Step(run, tuple(losses), count_numbers(decoder.params), *figures)


def needs(size: Transformer) -> tuple[float, float]:
    """FLOPs, and bytes to read: the weights, and what the cache holds after the prompt."""
    prompt, params = int(PROMPT * size.steps), jax.eval_shape(lambda: weights(size)[0])
    # Of the embedding a row for each id of the batch.
    matrices = count_numbers(params) - size.vocabulary * size.width
    held = 2 * size.blocks * size.batch * prompt * size.width
    return 2.0 * size.batch * matrices + 2.0 * held, 4.0 * (matrices + held)


DECODERS = {"jlayers": ours, "lax": hand_written, "nnx": nnx}


def measure(batch: int, budget: float, rounds: int, size: Transformer = SIZE) -> dict[str, Any]:
    """A row with the mode "step"."""
    size = size._replace(batch=batch)
    builders = {name: partial(prepared, make, size) for name, make in DECODERS.items()}
    title = f"a token, {size.blocks} blocks of {size.width}, a cache of {size.steps:,}"
    row = measure_step(f"{title}, batch {batch}", builders, budget, rounds, needs=needs(size))
    return row | {"op": "decode"}


ROWS: dict[str, Callable[[float, int], dict[str, Any]]] = {
    f"decode-{batch}": partial(measure, batch) for batch in (1, 4)
}
