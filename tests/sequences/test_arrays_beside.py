"""An array beside a Sequence: it has no padding, what joins both has the mask, all as if alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import read

import jlayers as jl
from jlayers import decoding

F = 4
# The second row is padded behind, the third in front.
MASK = jnp.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
KEYS = jax.random.split(jax.random.key(0), 4)
X = jl.Sequence(jnp.where(MASK[..., None], jax.random.normal(KEYS[0], (3, 6, F)), jnp.nan), MASK)
MEMORY = jl.Sequence(jax.random.normal(KEYS[2], (3, 5, F)), MASK[:, 1:])
A = jax.random.normal(KEYS[3], (3, 6, F))


@pytest.fixture(autouse=True)
def _as_users_write():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def mean():
    return jl.GlobalAvgPool()


def dense():
    return jl.Dense(F)


def conv():
    return jl.Conv(F, 3, padding="CAUSAL")


def attend():
    return jl.SelfAttention(2, rope=True)


def join(f, x):
    return f.mlp(jnp.tanh(x[0]) + x[1])


def both_in_one_call(f, x):
    x, a = jax.jit(lambda x, a: (jnp.tanh(x), a * 2))(*x)
    return x + a, f.mean(a)


def both_in_one_loop(f, x):
    x, a = jax.lax.fori_loop(0, 2, lambda i, pair: (jnp.tanh(pair[0]), pair[1] * 2), x)
    return x + a, f.mean(a)


def both_in_one_scan(f, x):
    pair, _ = jax.lax.scan(lambda c, s: ((jnp.tanh(c[0]) * s, c[1] * s), None), x, jnp.ones(2))
    return pair[0] + pair[1], f.mean(pair[1])


def both_in_one_branch(f, x):
    train = jnp.asarray(f.train)
    x, a = jax.lax.cond(train, lambda p: (p[0], -p[1]), lambda p: (jnp.tanh(p[0]), 2 * p[1]), x)
    return x + a, f.mean(a)


def constants_of_the_array(f, x):
    x, a = x
    segments = f.segment(jnp.zeros(a.shape[:2], jnp.int32))
    return jnp.tanh(x) + a + segments, f.mean(a + segments)


def three(f, inputs):
    x, memory, a = inputs
    return f.cross((jnp.tanh(x) + a, jnp.tanh(memory))), f.mean(2 * a), f.middle(2 * memory)


def nested(f, x):
    x, a = f.inner((jnp.tanh(x[0]), x[1]))
    return jnp.abs(x) + a, f.mean(a)


# What is compared with a row alone, whose arrays are cut like it; with one whose arrays are
# memories, which no row cuts; and with the arrays alone, all of whose steps are real.
ROW, MEMORIES, ARRAY = "row", "memories", "array"
PAIR = (X, A)
CASES = {
    "joined": (join, {"mlp": dense()}, PAIR, [ROW]),
    "joined, then pooled": (
        lambda f, x: f.mean(jnp.tanh(x[0]) + x[1]),
        {"mean": mean()},
        PAIR,
        [ROW],
    ),
    "pooled alone": (
        lambda f, x: (jnp.tanh(x[0]), f.mean(2 * x[1])),
        {"mean": mean()},
        PAIR,
        [ROW, ARRAY],
    ),
    "joined, and pooled alone": (
        lambda f, x: (jnp.tanh(x[0]) + x[1], f.mean(2 * x[1]), f.mean(jnp.tanh(x[0]) * x[1])),
        {"mean": mean()},
        PAIR,
        [ROW, ARRAY, ROW],
    ),
    "a window and an attention of the array": (
        lambda f, x: (jnp.tanh(x[0]) + x[1], f.conv(2 * x[1]), f.attend(2 * x[1])),
        {"conv": jl.Conv(F, 3, padding="SAME"), "attend": attend()},
        PAIR,
        [ROW, ARRAY, ARRAY],
    ),
    "arithmetic of the array across its steps": (
        lambda f, x: (
            jnp.tanh(x[0]) + x[1],
            f.mlp(x[1][:, ::-1] - x[1].mean(1, keepdims=True) + jnp.arange(x[1].shape[1])[:, None]),
        ),
        {"mlp": dense()},
        PAIR,
        [ROW, ARRAY],
    ),
    "the array as keys": (
        lambda f, x: f.cross((jnp.tanh(x[0]), 2 * x[1])),
        {"cross": jl.CrossAttention(2)},
        PAIR,
        [MEMORIES],
    ),
    "a summary of the array": (
        lambda f, x: jnp.tanh(x[0]) + f.mean(2 * x[1])[:, None],
        {"mean": mean()},
        PAIR,
        [MEMORIES],
    ),
    "attention by hand to the array": (
        lambda f, x: f.mlp(jax.nn.softmax(jnp.tanh(x[0]) @ x[1].swapaxes(1, 2)) @ x[1]),
        {"mlp": dense()},
        PAIR,
        [MEMORIES],
    ),
    "a summary of the Sequence": (
        lambda f, x: (jnp.tanh(x[0]), f.mlp(x[1] + f.mean(jnp.tanh(x[0]))[:, None])),
        {"mlp": dense(), "mean": mean()},
        PAIR,
        [ROW, MEMORIES],
    ),
    "the Sequence as keys": (
        lambda f, x: f.cross((2 * x[1], jnp.tanh(x[0]))),
        {"cross": jl.CrossAttention(2)},
        PAIR,
        [MEMORIES],
    ),
    "three": (
        three,
        {"cross": jl.CrossAttention(2), "mean": mean(), "middle": mean()},
        (X, MEMORY, A),
        [ROW, ARRAY, ROW],
    ),
    "one call": (both_in_one_call, {"mean": mean()}, PAIR, [ROW, ARRAY]),
    "one loop": (both_in_one_loop, {"mean": mean()}, PAIR, [ROW, ARRAY]),
    "one scan": (both_in_one_scan, {"mean": mean()}, PAIR, [ROW, ARRAY]),
    "one branch": (both_in_one_branch, {"mean": mean()}, PAIR, [ROW, ARRAY]),
    "constants": (
        constants_of_the_array,
        {"segment": jl.Embedding(2, F), "mean": mean()},
        PAIR,
        [ROW, ARRAY],
    ),
    "nested": (
        nested,
        {
            "inner": jl.compose(lambda f, x: (join(f, x), jnp.abs(x[1])), mlp=dense()),
            "mean": mean(),
        },
        PAIR,
        [ROW, ARRAY],
    ),
    "lifted": (
        jl.serial(lambda x: (jnp.tanh(x[0]) + x[1], x[1][:, ::-1]), jl.parallel(conv(), conv())),
        None,
        PAIR,
        [ROW, ARRAY],
    ),
    "lifted, of other steps": (
        jl.serial(
            lambda x: (jnp.tanh(x[0]), jnp.abs(x[1]), x[1].sum(1)),
            jl.parallel(conv(), conv(), dense()),
        ),
        None,
        (X, A[:, :4]),
        [ROW, ARRAY, ARRAY],
    ),
    "lifted, of constants": (
        jl.serial(lambda x: (jnp.tanh(x[0]), jnp.ones_like(x[1])), jl.parallel(conv(), conv())),
        None,
        PAIR,
        [ROW, ARRAY],
    ),
    "a child for arrays alone, behind a child for pairs": (
        lambda f, x: (f.pair((jnp.tanh(x[0]), 2 * x[1]))[0], f.reverse(f.pair(x)[1])),
        {"pair": jl.parallel(conv(), conv()), "reverse": jl.serial(lambda x: x[:, ::-1])},
        PAIR,
        [ROW, ARRAY],
    ),
    "repeated": (
        lambda f, x: f.blocks((x[0], 2 * x[1])),
        {
            "blocks": jl.repeat(
                jl.compose(
                    lambda f, x: (join(f, x), x[1] + f.mean(jnp.abs(x[1]))[:, None]),
                    mlp=dense(),
                    mean=mean(),
                ),
                2,
            )
        },
        (X, A),
        [None, ARRAY],
    ),
}


def row_of(tree, row, arrays):
    """A row alone: the valid steps of its Sequences, and of arrays, or all steps of those."""
    first = next(leaf for leaf in tree if isinstance(leaf, jl.Sequence))

    def cut(node):
        if isinstance(node, jl.Sequence):
            return node.values[row : row + 1, np.asarray(node.mask[row])]
        if arrays and node.shape[:2] == first.mask.shape:
            return node[row : row + 1, np.asarray(first.mask[row])]
        return node[row : row + 1]

    return tuple(cut(node) for node in tree)


def plain(tree):
    return tuple(node.fill() if isinstance(node, jl.Sequence) else node for node in tree)


@pytest.mark.parametrize("name", CASES)
def test_each_output_is_what_it_is_alone(name):
    body, children, x, kinds = CASES[name]
    model = jl.compose(body, **children) if children is not None else body
    params, state = model.init(jax.random.key(3), x)
    several = len(kinds) > 1
    outputs = jax.jit(model.apply)(params, state, x)[0]
    eager = model.apply(params, state, x)[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), outputs, eager
    )
    outputs = outputs if several else (outputs,)
    for row in range(3):
        runs = {ARRAY: plain(x), ROW: row_of(x, row, True), MEMORIES: row_of(x, row, False)}
        for i, (y, kind) in enumerate(zip(outputs, kinds, strict=True)):
            if kind is None:
                continue
            alone, _ = model.apply(params, state, runs[kind])
            alone = alone[i] if several else alone
            here = slice(row, row + 1)
            if isinstance(y, jl.Sequence):
                assert kind != ARRAY
                np.testing.assert_array_equal(y.mask, x[0].mask)
                y = y.values[here, np.asarray(y.mask[row])]
            else:
                y, alone = y[here], alone[here] if kind == ARRAY else alone
            np.testing.assert_allclose(y, alone, rtol=2e-5, atol=2e-5)


def gated(f, x):
    x, a = f.mlp(jnp.tanh(x[0])) * x[1], f.late(2 * x[1])
    return f.attend(x + a), f.mlp(a)


def test_blocks_of_a_pair_are_the_whole():
    model = jl.compose(
        gated, mlp=dense(), late=conv(), attend=jl.SelfAttention(2, causal=True, rope=True)
    )
    params, state = model.init(jax.random.key(3), PAIR)
    start, step = jl.stream(model, capacity=6)
    for x in (plain(PAIR), PAIR):
        carry, parts = start(params, state, (x[0][:, :3], x[1][:, :3])), []
        for at in (slice(0, 3), slice(3, 6)):
            y, carry = jax.jit(step)(params, state, carry, (x[0][:, at], x[1][:, at]))
            parts.append(y)
        whole, _ = model.apply(params, state, x)
        for i in (0, 1):
            found = jl.Sequence.concatenate([part[i] for part in parts])
            assert type(found) is type(whole[i])
            for one, other in zip(plain([found]), plain([whole[i]]), strict=True):
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("joins", [False, True])
def test_a_body_is_looked_at_as_often_for_many_calls_as_for_few(joins):
    def looks(calls):
        runs = []

        def body(f, x):
            runs.append(x)
            x, a = x
            for i in range(calls):
                x, a = f.pair((jnp.tanh(x), 2 * a))
                x, a = x + f[f"x{i}"](2 * x), f[f"a{i}"](jnp.tanh(a))
            return (x + a if joins else x), a

        names = [f"{which}{i}" for which in "xa" for i in range(calls)]
        children = {name: jl.Dense(F) for name in names}
        model = jl.compose(body, pair=jl.parallel(dense(), dense()), **children)
        found, alone = jl.out_spec(model, PAIR)
        assert isinstance(found, jl.Sequence)
        assert not isinstance(alone, jl.Sequence)
        return len(runs)

    assert looks(5) == looks(2) <= 16


@pytest.mark.full
def test_a_context_of_as_many_steps_as_the_prompt():
    def body(f, x):
        ids, context = x
        y = f.embed(ids)
        y = y + f.attend(jnp.tanh(y)) + f.cross((jnp.tanh(y), 2 * context))
        return f.head(y)

    model = jl.compose(
        body,
        embed=jl.Embedding(11, F),
        attend=jl.SelfAttention(2, causal=True, rope=True),
        cross=jl.CrossAttention(2),
        head=jl.Dense(11),
    )
    prompt = jl.Sequence(jax.random.randint(KEYS[0], (3, 6), 0, 11), MASK)
    params, state = model.init(jax.random.key(3), (prompt, A))
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    found = decoding.generate(model, params, state, prompt, 3, context=A)
    row, context = row_of((prompt, A), 1, False)
    alone = decoding.generate(model, params, state, row, 3, context=context)
    np.testing.assert_array_equal(found.values[1], alone.values[0])


def segments_through_a_window(f, x):
    x, a = x
    segments = jnp.ones(a.shape)
    return jnp.tanh(x) + a, f.conv(segments)


def constant_steps(f, x):
    x, a = x
    return f.conv(jnp.tanh(x) + a), jnp.ones(a.shape)


def constant_queries(f, x):
    x, a = x
    return f.conv(jnp.tanh(x) + a), f.cross((jnp.ones(a.shape), jnp.tanh(x)))


UNDECIDED = [
    (segments_through_a_window, {"conv": conv()}, "gives its child 'conv'"),
    (constant_steps, {"conv": conv()}, "returns"),
    (constant_queries, {"conv": conv(), "cross": jl.CrossAttention(2)}, "returns"),
]


@pytest.mark.parametrize(("body", "children", "what"), UNDECIDED)
def test_what_may_be_of_either_is_refused_by_its_line(body, children, what):
    line = body.__code__.co_firstlineno + 2
    read(
        (
            lambda: jl.compose(body, **children).init(jax.random.key(3), PAIR),
            f"compose: the body {what} steps that come from none of its inputs: whether they are "
            "those of a Sequence, with its mask, or of the array beside it is not known",
            "expected: steps of an input",
            f"as both ({__file__}:{line} in {body.__name__})",
            "hint:     an input of the body for them: jl.Sequence(array, x.mask), or an array",
        )
    )
