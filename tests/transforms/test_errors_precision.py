"""What precision, audit and the transforms of gradients say of what they cannot do."""

import jax
import jax.numpy as jnp
from error_text import F32, MODEL, X, each, init, read

import jlayers as jl
from jlayers import transforms as t
from jlayers.transforms import Precision


def product(f, x):
    return f.dense(x) @ f.param("w", jax.nn.initializers.ones, (3, 3))


HALF = Precision(compute="bfloat16", accumulate="float32")
RULES = [
    (
        lambda: t.precision(MODEL, "bf16"),
        "precision: unknown dtype 'bf16' for compute",
        "expected: 'bfloat16', 'float16', 'float32', 'float64'",
        "hint:     'bfloat16'",
    ),
    (
        lambda: t.precision(MODEL, {"dense": Precision(params="int8")}),
        "params must be a floating dtype, got 'int8'",
        "hint:     jl.transforms.quantize for weights of few bits",
    ),
    (
        lambda: t.precision(MODEL, jnp.complex64),
        "precision: compute must be a floating dtype, got 'complex64'",
    ),
    (lambda: Precision(output="inputs"), "unknown dtype 'inputs' for output"),
    (
        lambda: init(t.precision(jl.serial(a=MODEL), {"a/dense": "float64"})),
        "precision at 'a/dense': float64 is switched off in JAX",
        "got:      Precision(compute='float64', output='input')",
        'hint:     jax.config.update("jax_enable_x64", True)',
    ),
    (
        lambda: t.precision(MODEL, {"dense_2": "bfloat16"}),
        "precision: the rule 'dense_2' fits no layer",
        "got:      dense, relu, dense_1",
    ),
    (
        lambda: t.precision(jl.serial(a=MODEL), {"dense": "bfloat16", "**": "float32"}),
        "precision: the rule 'dense' fits no layer",
        "hint:     '**/dense'",
    ),
    (
        lambda: t.precision(jl.serial(a=MODEL), {"a": "bfloat16", "a/dense": "float32"}),
        "precision: the rule 'a/dense' is never used: 'a' comes first and fits the same",
        "got:      a/dense",
        "hint:     'a/dense' before 'a'",
    ),
    (
        lambda: t.precision(t.precision(MODEL, "bfloat16"), {"dense": "float32"}),
        "precision: the rule 'dense' changes nothing: these layers have a precision already",
        "hint:     one table with all rules",
    ),
    (
        lambda: t.precision(t.precision(MODEL, "bfloat16"), "float32"),
        "precision: every layer has a precision already",
        "hint:     one table with all rules",
    ),
    (
        lambda: t.precision(MODEL, {}),
        "precision: there are no rules",
        'expected: {"**": "bfloat16"}',
    ),
    (
        lambda: t.precision(MODEL, {1: "bfloat16"}),
        "precision: a pattern must be a text, got 1",
    ),
    (
        lambda: t.precision(MODEL, {"dense": None}),
        "precision: a rule must be a dtype or a Precision",
        "got:      None",
    ),
    (
        lambda: init(t.precision(jl.serial(a=jl.compose(product, dense=jl.Dense(3))), HALF)),
        "precision at 'a': accumulate is for layers without others inside, and this one has "
        "products of its own",
        "hint:     a Dense or an Einsum for the product, or a rule without accumulate",
    ),
    (
        lambda: init(t.precision(jl.serial(a=jl.repeat(jl.Dense(3), 2)), "mixed")),
        "repeat at 'a': the output of a repeated layer differs from its input",
    ),
    (
        lambda: t.without_precision(MODEL),
        "without_precision: the model has no precision to take off",
        "got:      serial(Dense(4)",
    ),
    (lambda: t.audit(MODEL, F32, train=1), "audit: train must be True or False, got 1"),
    (lambda: t.audit(MODEL, jl.spec((8,), int)), "Dense at 'dense': *"),
]
GRADIENTS = [
    (
        lambda: t.clip_gradients(MODEL, "dense"),
        "clip_gradients: takes a norm or a value",
        "expected: norm=1.0 or value=0.1",
        "got:      neither",
    ),
    (
        lambda: t.clip_gradients(MODEL, "dense", norm=1.0, value=0.5),
        "clip_gradients: takes a norm or a value",
        "got:      norm=1.0, value=0.5",
    ),
    (
        lambda: t.clip_gradients(MODEL, "dense", norm=-1.0),
        "clip_gradients: norm must be *, got -1.0",
    ),
    (
        lambda: t.clip_gradients(MODEL, "dense", value=0),
        "clip_gradients: value must be *, got 0",
    ),
    (
        lambda: t.clip_gradients(MODEL, "conv", norm=1.0),
        "clip_gradients: the pattern 'conv' fits no layer",
        "got:      dense, relu, dense_1",
    ),
    (
        lambda: t.stop_gradient(jl.serial(a=MODEL), "dense"),
        "stop_gradient: the pattern 'dense' fits no layer",
        "hint:     '**/dense'",
    ),
    (lambda: t.stop_gradient(MODEL, 3), "stop_gradient: expected a selector of layers, got 3"),
    (
        lambda: t.gradient_checkpoint(MODEL, "blocks"),
        "gradient_checkpoint: the pattern 'blocks' fits no layer",
    ),
    (
        lambda: t.gradient_checkpoint(MODEL, policy=True),
        "gradient_checkpoint: policy must be one of jax.checkpoint_policies, got True",
        "expected: jax.checkpoint_policies.dots_saveable",
    ),
    (
        lambda: t.clip_gradients(MODEL, "dense", norm=1.0).apply({}, {}, X),
        "serial: *",
    ),
]


@each(RULES, GRADIENTS)
def test_text(case):
    read(case)
