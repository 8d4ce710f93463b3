"""Without ``jax.jit``: a second call of the same shapes compiles nothing, whatever is inside."""

import gc
import weakref

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from tables.instances import INSTANCES
from tables.tiers import full, named

import jlayers as jl
from jlayers import decoding
from jlayers.core.dispatch import compiled_when_eager, is_staged

KEY = jax.random.key(0)
LOWERED = []


def count(event, duration, **_):
    # Of each program, also where the compiled one is found on disk.
    if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
        LOWERED.append(event)


jax.monitoring.register_event_duration_secs_listener(count)


def compilations(call):
    """How many programs a call compiles after the same call twice."""
    call()
    call()
    before = len(LOWERED)
    call()
    return len(LOWERED) - before


def values(spec):
    rng = np.random.default_rng(0)

    def one(leaf):
        if isinstance(leaf, np.ndarray):  # not any integers: these
            return jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(one, spec)


def has_a_body(layer, spec):
    """Whether the program has loops, branches, or parts that are computed again."""
    params, state = jax.eval_shape(layer.init, KEY, spec)
    program = jax.make_jaxpr(lambda *given: layer.apply(*given, key=KEY, train=True))
    names = {holder.primitive.name for holder in holders(program(params, state, spec))}
    return not names.isdisjoint({"scan", "while", "cond", "remat2", "checkpoint"})


def holders(jaxpr):
    """The equations that hold a jaxpr."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if any(inner := list(jaxprs_in_params(equation.params))):
            yield equation
        for each in inner:
            yield from holders(each)


def calls(layer, x):
    """What users do without ``jit``, by name."""
    params, state = layer.init(KEY, x)

    def loss(params, x):
        y, _ = layer.apply(params, state, x, key=KEY, train=True)
        # Of a Sequence its values: the mask has no gradient.
        return sum(
            jnp.sum(leaf.astype(jnp.float32))
            for leaf in jax.tree.leaves(y)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        )

    yield "apply", lambda: layer.apply(params, state, x)
    yield "train", lambda: layer.apply(params, state, x, key=KEY, train=True)
    yield "grad", lambda: jax.grad(loss, (0, 1), allow_int=True)(params, x)
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), x)
    yield "vmap", lambda: jax.vmap(lambda x: layer.apply(params, state, x)[0])(rows)
    try:
        start, step = jl.stream(layer, capacity=8)
        carry = start(params, state, x)
    except jl.LayerError:
        return
    if all(jnp.ndim(leaf) > 1 for leaf in jax.tree.leaves(x)) and layer.kind != "parallel":
        yield "step", lambda: step(params, state, carry, x)


# The mechanisms: each loop or branch of the core, and each combinator that has a loop of its own.
FAST = [
    "dense of steps, no bias",
    "conv 2-D",
    "batch norm",
    "self-attention in blocks, heads that share",
    "gru",
    "simple rnn with options",
    "repeat, rematerialised",
]
OTHERS = {
    "a recursive filter over chunks": (jl.IIRFilter([0.5], [1.0, -0.5]), jl.spec((1, 130, 1))),
    "once, on a second input": (
        jl.compose(
            lambda f, x: f.steps(x[0]) + f.context(x[1]),
            steps=jl.GRU(2),
            context=jl.once(jl.serial(jl.LSTM(2), lambda h: h.mean(1, keepdims=True))),
        ),
        (jl.spec((2, 3, 4)), jl.spec((2, 5, 4))),
    ),
    "ensemble of lstm": (jl.ensemble(jl.LSTM(2), 2), jl.spec((2, 3, 4))),
    "remat of lstm": (jl.remat(jl.LSTM(2)), jl.spec((2, 3, 4))),
    "a step of images": (jl.each_step(jl.MaxPool(2)), jl.spec((2, 3, 4, 4, 1))),
    "lstm of a sequence": (
        jl.LSTM(2),
        jl.Sequence(jl.spec((2, 3, 4)), jl.spec((2, 3), bool)),
    ),
    "norm of a sequence": (
        jl.BatchNorm(),
        jl.Sequence(jl.spec((2, 3, 4)), jl.spec((2, 3), bool)),
    ),
}
FAST_OTHERS = [
    "lstm of a sequence",
    "a recursive filter over chunks",
    "once, on a second input",
]
QUIET = {"concat of inputs", "parallel, named"}  # cannot be streamed with these inputs


@pytest.mark.parametrize("name", named([*INSTANCES, *OTHERS], *FAST, *FAST_OTHERS))
def test_the_same_call_compiles_nothing_the_third_time(name):
    layer, spec = OTHERS[name] if name in OTHERS else INSTANCES[name][:2]
    # Operations by themselves are found again; what is compiled for a call is the body of a loop.
    if name in INSTANCES and not has_a_body(layer, spec):
        return
    found = {
        kind: compilations(call)
        for kind, call in calls(layer, values(spec))
        if not (kind == "step" and name in QUIET)
    }
    assert found == dict.fromkeys(found, 0)


IDS = jnp.asarray([[1, 2, 3], [4, 0, 2]], jnp.int32)
MODEL = jl.serial(jl.Embedding(5, 4), jl.repeat(jl.LSTM(4), 2), jl.Dense(5))
DECODING = {
    "decode": lambda *model: decoding.decode(*model, IDS, 3),
    "sample": lambda *model: decoding.decode(*model, IDS, 3, decoding.sampler(0.5), key=KEY),
    "beams": lambda *model: decoding.beam_search(*model, IDS, 3, beams=2),
    "generate": lambda *model: decoding.generate(*model, IDS, 3),
}


@pytest.mark.parametrize("name", DECODING)
def test_decoding_compiles_once(name):
    model = (MODEL, *MODEL.init(KEY, IDS))
    assert compilations(lambda: DECODING[name](*model)) == 0


@pytest.mark.parametrize("layer", [jl.repeat(jl.Dense(4), 2), *full(jl.GRU(4, layer_norm=True))])
def test_a_program_is_freed_with_its_layer(layer):
    layer = layer.rebuild(dict(layer.children)) if layer.children else jl.GRU(4, layer_norm=True)
    x = jnp.ones((2, 3, 4))
    layer.apply(*layer.init(KEY, x), x)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


def test_inside_a_program_the_function_itself_is_traced():
    double = compiled_when_eager("times")(lambda x, times: x * times)

    def program(x):
        return double(x, times=2)

    x = jnp.ones(3)
    for transformed in (program, jax.grad(lambda x: program(x).sum()), jax.vmap(program)):
        assert "jit" not in str(jax.make_jaxpr(transformed)(x))
    # Lists have no hash, and NumPy arrays neither.
    assert double(x, times=np.full(3, 2.0)).tolist() == [2, 2, 2]


def test_what_is_staged():
    seen = []

    def look(x):
        seen.append(is_staged(x))
        return jnp.sum(x)

    x = jnp.ones(3)
    for run in (look, jax.grad(look), jax.vmap(look), jax.vmap(jax.grad(lambda x: look(x)))):
        run(x)
    assert not any(seen)
    seen.clear()
    for run in (look, jax.grad(look), jax.vmap(look)):
        jax.jit(run)(x)
        jax.eval_shape(run, x)
    assert all(seen)


def test_shapes_alone_compile_nothing():
    """Where a body's program is examined, its children's passes are not run with values."""
    both = jl.bidirectional(jl.LSTM(2))
    model = jl.compose(lambda f, x: f.head(f.both(x) + f.both(x)), both=both, head=jl.Dense(3))
    x = jl.Sequence(jl.spec((2, 3, 4)), jl.spec((2, 3), bool))
    before = len(LOWERED)
    assert jl.out_spec(model, x).values.shape == (2, 3, 3)
    assert len(LOWERED) == before
