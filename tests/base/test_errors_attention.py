"""What attention and the norms refuse, and in which words."""

import jax.numpy as jnp
from error_text import F32, IMAGE, SEQUENCE, each, init, read

import jlayers as jl


def _start(layer):
    x = jl.spec((2, 3, 4))
    return jl.stream(layer).start(*init(layer, x), x)


# (what goes wrong, the first line, parts of later lines)
CALLS = [
    (lambda: jl.SelfAttention(0), "SelfAttention: num_heads must be a positive int, got 0"),
    (
        lambda: jl.SelfAttention(4, num_kv_heads=3),
        "SelfAttention: num_kv_heads 3 does not divide num_heads 4",
    ),
    (
        lambda: jl.SelfAttention(4, causal=1),
        "SelfAttention: causal must be True or False, got 1",
    ),
    (
        lambda: jl.SelfAttention(4, window=3),
        "SelfAttention: a window looks back alone",
        "hint:     causal=True, window=3",
    ),
    (
        lambda: jl.SelfAttention(4, window=0, causal=True),
        "SelfAttention: window must be a positive int, got 0",
    ),
    (
        lambda: jl.SelfAttention(4, rope="base"),
        "SelfAttention: rope must be a number of at least 0, got 'base'",
    ),
    (
        lambda: jl.SelfAttention(4, rope=0.0),
        "SelfAttention: rope must be a number above 0, got 0.0",
    ),
    (
        lambda: jl.SelfAttention(4, soft_cap=0),
        "SelfAttention: soft_cap must be a number above 0, got 0",
    ),
    (
        lambda: jl.SelfAttention(4, alibi=1),
        "SelfAttention: alibi must be True or False, got 1",
    ),
    (
        lambda: jl.CrossAttention(4, num_kv_heads=3),
        "CrossAttention: num_kv_heads 3 does not divide num_heads 4",
    ),
    (lambda: jl.GroupNorm(0), "GroupNorm: groups must be a positive int, got 0"),
    (
        lambda: jl.RMSNorm(epsilon=-1.0),
        "RMSNorm: epsilon must be a number of at least 0, got -1.0",
    ),
]
INPUTS = [
    (
        lambda: init(jl.serial(jl.SelfAttention(4)), SEQUENCE),
        "SelfAttention at 'self_attention': "
        "num_heads 4 does not divide the 6 features of the input",
        "got:      float32[4, 10, 6]",
        "hint:     head_dim=..., the features of one head",
    ),
    (
        lambda: init(jl.SelfAttention(4)),
        "SelfAttention: takes an array of rank 3, got rank 2",
        "expected: (batch, time, features)",
        "hint:     Reshape((time, features)) before it; Embedding for ids",
    ),
    (
        lambda: init(jl.SelfAttention(2), jl.spec((2, 3, 4), jnp.int32)),
        "SelfAttention: takes floating numbers, got int32",
        "hint:     x.astype(jnp.float32); Embedding for integer ids",
    ),
    (
        lambda: init(jl.SelfAttention(2, rope=True), jl.spec((2, 3, 6))),
        "SelfAttention: rope turns pairs of features, and a head has 3",
        "hint:     head_dim=..., an even number",
    ),
    (
        lambda: init(jl.CrossAttention(2), jl.spec((2, 3, 4))),
        "CrossAttention: takes a pair",
        "expected: (x, memory)",
        "got:      float32[2, 3, 4]",
    ),
    (
        lambda: init(jl.CrossAttention(2), (jl.spec((2, 3, 4)), jl.spec((3, 3, 4)))),
        "CrossAttention: x and memory are not of one batch and one dtype",
        "got:      float32[2, 3, 4] and float32[3, 3, 4]",
    ),
    (
        lambda: init(jl.CrossAttention(2), (jl.spec((2, 3, 4)), jl.spec((2, 4)))),
        "CrossAttention: takes an array of rank 3, got rank 2",
    ),
    (
        lambda: _start(jl.serial(jl.SelfAttention(2, causal=True))),
        "SelfAttention at 'self_attention': attention to all steps needs to know for how many it "
        "keeps room",
        "hint:     jl.stream(model, capacity=...), or window=...",
    ),
    (
        lambda: _start(jl.SelfAttention(2)),
        "SelfAttention: cannot be streamed: every step sees the later ones",
        "hint:     a causal layer: padding='CAUSAL', causal=True, no reverse",
    ),
    (
        lambda: init(jl.SelfAttention(2, method="flash"), jl.spec((2, 3, 4))),
        "SelfAttention: raised ValueError: attention has no method 'flash' for these arguments, *",
    ),
    (
        lambda: init(jl.SelfAttention(2, method="cudnn"), jl.spec((2, 3, 4))),
        "SelfAttention: raised ValueError: attention has no method 'cudnn' for these arguments, *",
    ),
    (
        lambda: init(jl.serial(jl.GroupNorm(2)), IMAGE),
        "GroupNorm at 'group_norm': groups 2 do not divide the 3 features of the input",
        "got:      float32[2, 8, 8, 3]",
    ),
    (
        lambda: init(jl.GroupNorm(1), jl.spec((4,))),
        "GroupNorm: takes an array of rank 2 or more, got rank 1",
    ),
    (
        lambda: init(jl.RMSNorm(), jl.spec((8, 5), jnp.int32)),
        "RMSNorm: takes floating numbers, got int32",
    ),
    (lambda: init(jl.RMSNorm(), jl.spec(())), "RMSNorm: takes an array of rank 1 or more*"),
]


@each(CALLS, INPUTS)
def test_the_text(case):
    read(case)


def test_features_of_a_head_may_be_given():
    assert jl.out_spec(jl.SelfAttention(4, head_dim=3), jl.spec((2, 3, 5))).shape == (2, 3, 5)
    assert jl.out_spec(jl.GroupNorm(5), F32) == F32
