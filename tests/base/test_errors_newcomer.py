"""What a newcomer writes first, from the words of PyTorch and Flax, and what the error says."""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import checkpoint, decoding, training

X, LABELS = np.ones((6, 8), "float32"), np.arange(6, dtype="int32") % 2
MODEL = jl.serial(
    backbone=jl.serial(jl.Dense(4), jl.BatchNorm(), jl.Dropout(0.5)), head=jl.Dense(2)
)
TX = optax.sgd(0.1, momentum=0.9)
IDS = jl.spec((2, 3), jnp.int32)


def loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def measure(logits, labels):
    return {"accuracy": (logits.argmax(-1) == labels).mean()}


def start(**options):
    return training.train_step(MODEL, loss, TX, **options).start(jax.random.key(0), X)


def step(*batch):
    return training.train_step(MODEL, loss, TX)(start(), *batch)


def evaluate(state=None, model=MODEL, last="drop"):
    batches = training.Batches((X, LABELS), 4, last=last)
    return training.make_evaluator(model, measure, batches)(start() if state is None else state)


def fit(*args, **words):
    return training.fit(training.train_step(MODEL, loss, TX), start(), *args, **words)


def tied(body):
    return jl.compose(body, e=jl.Embedding(5, 3)).init(jax.random.key(0), IDS)


def beyond():
    model = jl.serial(jl.Embedding(5, 4), jl.PositionEmbedding(6), jl.LSTM(4), jl.Dense(5))
    prompt = jnp.ones((1, 3), jnp.int32)
    return decoding.generate(model, *model.init(jax.random.key(0), prompt), prompt, 8)


_VALID = "hint:     last='pad' adds a last target, True for rows of the data: (y, *targets, valid)"
CASES = [
    # a call of the step and of the loop
    (
        lambda: step(X, LABELS),
        "train_step: takes 2 arguments by position, got 3",
        "hint:     a batch is a tuple: step(state, (x, labels))",
    ),
    (
        lambda: fit([(X, LABELS)], 5),
        "fit: takes 3 arguments by position, got 4",
        "hint:     the others are given by name: steps=1000",
    ),
    (
        lambda: training.Batches(X, LABELS, 4),
        "Batches: takes 2 arguments by position, got 3",
        "hint:     the arrays of a batch are a tuple: Batches((x, labels), 32)",
    ),
    (
        lambda: fit([(X, LABELS)], steps=1, checkpoints="runs"),
        "fit: checkpoints must be a training.CheckpointManager",
        "hint:     training.CheckpointManager('runs')",
    ),
    # a loss that does not take what it gets
    (
        lambda: step((X, LABELS[:, None])),
        "train_step: the loss raised *",
        "got:      y float32[6, 2], targets int32[6, 1]",
    ),
    (
        lambda: fit(training.Batches((X, LABELS), 4, last="pad"), steps=2, progress=False),
        "fit: the loss raised TypeError: loss() takes 2 positional arguments but 3 were given",
        _VALID,
    ),
    (lambda: evaluate(last="pad"), "evaluate: measure raised TypeError: *", _VALID),
    (
        lambda: step((X, LABELS, X)),
        "train_step: the loss raised TypeError: *",
        "hint:     it is called with the model's output and the targets of a batch: (y, *targets)",
    ),
    # an evaluation
    (
        lambda: evaluate(start().params),
        "evaluate: state must be a TrainState",
        "hint:     step.start(key, x), or fitted.state of what fit returns",
    ),
    (
        lambda: evaluate(model=jl.inference(MODEL, "**/dropout", train=True)),
        "Dropout at 'backbone/dropout': needs a key to train and got none",
        "hint:     make_evaluator(..., key=key)",
    ),
    # patterns
    (
        lambda: start(frozen="backbone"),
        "train_state: the pattern 'backbone' fits no path",
        "hint:     'backbone/**'",
    ),
    (
        lambda: jl.inference(MODEL, "dropout"),
        "inference: the pattern 'dropout' fits no layer",
        "hint:     '**/dropout'",
    ),
    # pretrained parameters
    (
        lambda: training.train_state(MODEL, TX, jax.random.key(0), X, params={}),
        "train_state: params do not fit the model: 6 missing",
        "missing    head/kernel                float32[4, 2]",
    ),
    (
        lambda: training.train_state(
            MODEL, TX, jax.random.key(0), X, params=MODEL.init(jax.random.key(0), X)[0]
        ),
        "train_state: params are given without the state that belongs to them",
        "expected: state with 'backbone/batch_norm/mean', 'backbone/batch_norm/var'",
        "for a fresh one state=model.init(key, x)[1]",
    ),
    # bodies
    (
        lambda: tied(lambda f, x: f.e(x) @ f.e.embedding.T),
        "compose: raised AttributeError: a child has no attribute 'embedding'; f.e.params holds "
        "its parameters, by name",
    ),
    # sequences and decoding
    (
        lambda: jl.Sequence(jnp.ones((2, 3)), jnp.ones((2, 3))),
        "the mask of a Sequence does not fit its values",
        "hint:     mask.astype(bool)",
    ),
    (
        lambda: jl.Sequence.from_rows([[1], [2]], padding_value=0),
        "from_rows: unknown argument 'padding_value'",
        "expected: from_rows(rows, length=None)",
    ),
    (
        beyond,
        "generate: row 0 has no id to choose: its logits after * NaN",
        "hint:     steps beyond a PositionEmbedding or a capacity are NaN",
    ),
]


@each(CASES)
def test_newcomers_read(case):
    read(case)


@pytest.mark.parametrize(
    ("module", "name", "answer"),
    [
        ("jlayers", "pad_sequence", "jl.Sequence.from_rows(rows) pads rows of different lengths"),
        ("jlayers.training", "Callback", "training.Hook"),
        ("jlayers.training", "freeze", "training.train_step(..., frozen='encoder/**')"),
        # no modules of this name
        ("jlayers.training", "evaluate", "training.make_evaluator"),
        ("jlayers.checkpoint", "save", "checkpoint.save_checkpoint"),
    ],
)
def test_names(module, name, answer):
    with pytest.raises(AttributeError, match="has no attribute") as caught:
        getattr(importlib.import_module(module), name)
    assert str(caught.value).endswith(f"hint:     {answer}")
    assert isinstance(importlib.import_module("jlayers.training.evaluator"), types.ModuleType)


def test_a_checkpoint_of_another_model_is_blamed_on_the_folder(tmp_path):
    other = jl.serial(backbone=MODEL.children["backbone"], head=jl.Dense(3))
    words = {"steps": 2, "progress": False, "checkpoints": training.CheckpointManager(tmp_path)}
    fit([(X, LABELS)] * 2, **words)
    step = training.train_step(other, loss, TX)
    with pytest.raises(jl.CheckpointError, match="does not match the state that was given") as e:
        training.fit(step, step.start(jax.random.key(0), X), [(X, LABELS)] * 2, **words)
    assert (
        e.value.hint == "another folder for another model or optimiser; resume=False starts again"
    )


def test_the_hint_of_a_plan_is_enough(tmp_path):
    state = start()
    path = checkpoint.save_checkpoint(tmp_path, state, step=0)
    like = {"params": state.params, "state": state.state}
    with pytest.raises(jl.CheckpointError) as caught:
        checkpoint.read_checkpoint(path, like)
    assert caught.value.hint == "allow=('step', 'opt_state/**', 'key') to let such paths differ"
    allow = ("step", "opt_state/**", "key")
    restored = checkpoint.read_checkpoint(path, like, allow=allow)
    assert jax.tree.structure(restored.tree) == jax.tree.structure(like)
