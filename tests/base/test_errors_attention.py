"""What attention and the norms refuse, and in which words."""

import jax
import jax.numpy as jnp
from error_text import F32, IMAGE, SEQUENCE, each, init, read

import jlayers as jl

STEPS = jl.spec((2, 3, 4))


def _start(layer):
    x = jl.spec((2, 3, 4))
    return jl.stream(layer).start(*init(layer, x), x)


def _dropped(layer):
    params, state = layer.init(jax.random.key(0), STEPS)
    layer.apply(params, state, jnp.zeros(STEPS.shape), train=True)


def _block_with_a_mask(layer):
    params, state = layer.init(jax.random.key(0), STEPS)
    x = jnp.zeros(STEPS.shape)
    start, step = jl.stream(layer)
    step(params, state, start(params, state, x), {"x": x, "mask": jnp.ones((2, 3, 3), bool)})


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
    (
        lambda: jl.SelfAttention(4, window=(1, 2), causal=True),
        "SelfAttention: a causal window is one number of steps",
        "hint:     window=2, the step itself included",
    ),
    (
        lambda: jl.SelfAttention(4, window=(1, 2, 3)),
        "SelfAttention: window must be an int or (before, after), got (1, 2, 3)",
    ),
    (
        lambda: jl.SelfAttention(4, window=(-1, 2)),
        "SelfAttention: window must be an int of at least 0, got -1",
    ),
    (
        lambda: jl.SelfAttention(4, alibi=(1.0, 2.0)),
        "SelfAttention: alibi has 2 slopes for 4 heads",
    ),
    (
        lambda: jl.SelfAttention(4, pattern=lambda q: q),
        "SelfAttention: pattern must be a function of (queries, keys), got *",
    ),
    (
        lambda: jl.SelfAttention(4, relative=jl.T5Bias),
        "SelfAttention: relative must be a T5Bias, ShawPositions or TransformerXLPositions, got *",
        "hint:     T5Bias(...)",
    ),
    (
        lambda: jl.SelfAttention(4, qk_norm=True),
        "SelfAttention: qk_norm must be 'rms', 'layer' or None, got True",
    ),
    (
        lambda: jl.CrossAttention(4, bias=("query", "keys")),
        "CrossAttention: bias must be True, False or a tuple of 'query', 'key', 'value', 'gate', "
        "'out', got ('query', 'keys')",
    ),
    (lambda: jl.T5Bias(0), "num_buckets must be an int of at least 2, got 0"),
    (lambda: jl.ShawPositions(0), "max_distance must be a positive int, got 0"),
    (
        lambda: jl.TransformerXLPositions(2, position_dim=0),
        "position_dim must be a positive int, got 0",
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
        "expected: (x, memory), (x, keys, values), or a dict of these with 'mask' or 'bias'",
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
        lambda: init(jl.CrossAttention(2), (STEPS, STEPS, jl.spec((2, 5, 4)))),
        "CrossAttention: keys and values do not have the same steps",
        "got:      float32[2, 3, 4] and float32[2, 5, 4]",
    ),
    (
        lambda: init(jl.SelfAttention(2), {"x": STEPS, "attn_mask": jl.spec((2, 3, 3), bool)}),
        "SelfAttention: takes steps, or a dict of them and a mask or a bias",
        "expected: x, or {'x': x, 'mask': mask, 'bias': bias}",
    ),
    (
        lambda: init(jl.SelfAttention(2), {"x": STEPS, "mask": jl.spec((2, 3, 3))}),
        "SelfAttention: the mask must be bools, got float32",
        "hint:     mask > 0; what is added to the scores is a 'bias'",
    ),
    (
        lambda: init(jl.SelfAttention(2), {"x": STEPS, "bias": jl.spec((2, 3, 3), bool)}),
        "SelfAttention: the bias must be floating, got bool",
        "hint:     True where a query attends to a key is a 'mask'",
    ),
    (
        lambda: init(jl.SelfAttention(2), {"x": STEPS, "mask": jl.spec((2, 3), bool)}),
        "SelfAttention: the mask does not fit the steps",
        "expected: (batch, [num_heads,] queries, keys), any of them 1: [2, 2, 3, 3]",
        "got:      bool[2, 3]",
        "hint:     mask[None] for all rows; padding is the mask of a Sequence",
    ),
    (
        lambda: init(jl.SelfAttention(2, rope=jl.Rope(fraction=0.75)), STEPS),
        "SelfAttention: rope turns pairs of features, and its fraction of the 2 of a head is 1",
        "hint:     another fraction=, or head_dim=...",
    ),
    (
        lambda: init(jl.AdditiveAttention(), (STEPS, jl.spec((2, 5, 3)))),
        "AdditiveAttention: queries and keys have two sizes",
        "got:      float32[2, 3, 4] and float32[2, 5, 3]",
        "hint:     AdditiveAttention(hidden_dim), which maps both to one",
    ),
    (
        lambda: init(jl.LatentAttention(3, 4, rope_dim=2), STEPS),
        "LatentAttention: num_heads 3 does not divide the 4 features of the input",
    ),
    (
        lambda: init(jl.LatentAttention(2, 4, rope_dim=3), STEPS),
        "LatentAttention: rope turns pairs of features, and a head has 3",
    ),
    (
        lambda: _start(jl.LatentAttention(2, 4, rope_dim=2, causal=True)),
        "LatentAttention: attention to all steps needs to know for how many it keeps room",
    ),
    (
        lambda: init(jl.SelfAttention(2), {"x": STEPS, "memory": jl.spec((2, 9, 4))}),
        "SelfAttention: x and the memory beside it must have the same steps and one dtype",
        "hint:     CrossAttention, for a memory that is there as a whole",
    ),
    (
        lambda: jl.LatentAttention(2, 4, rope_dim=2, rope=False),
        "LatentAttention: rope is what tells positions apart here",
    ),
    (
        lambda: init(
            jl.SelfAttention(2, relative=jl.TransformerXLPositions(8, position_dim=3)), STEPS
        ),
        "SelfAttention: waves are pairs of features, and there are 3",
        "hint:     TransformerXLPositions(..., position_dim=...), an even number",
    ),
    (
        lambda: init(jl.SelfAttention(2, relative=jl.T5Bias(8, shared=True)), STEPS),
        "SelfAttention: takes a table of its own size",
        "expected: {'x': x, 'relative_bias': table}, [8, 2]",
    ),
    (
        lambda: init(
            jl.SelfAttention(2, relative=jl.T5Bias(8)),
            {"x": STEPS, "relative_bias": jl.spec((8, 2))},
        ),
        "SelfAttention: has a table of its own",
        "hint:     T5Bias(shared=True)",
    ),
    (
        lambda: init(jl.SelfAttention(2), {"x": STEPS, "relative_bias": jl.spec((8, 2))}),
        "SelfAttention: takes no table of distances",
        "hint:     relative=T5Bias(..., shared=True)",
    ),
    (
        lambda: _dropped(jl.SelfAttention(2, dropout_rate=0.5)),
        "SelfAttention: needs a key to train and got none",
        "hint:     apply(..., key=key)",
    ),
    (
        lambda: _block_with_a_mask(jl.SelfAttention(2, causal=True, window=2)),
        "SelfAttention: a mask or a bias is of a whole sequence, and this is a block of a stream",
        "hint:     pattern=, a function of positions; padding is the mask of a Sequence",
    ),
    (
        lambda: _start(jl.SelfAttention(2, causal=True, weights=True)),
        "SelfAttention: cannot be streamed: its weights are those of a whole sequence",
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
