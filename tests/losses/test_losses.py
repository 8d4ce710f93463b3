"""Masks, weights, Sequences and errors of the losses; tests/conformance has the values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import losses, training

LOGITS = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 5, (3, 4), np.int32)
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
KINDS = {
    "cross_entropy": lambda x, **more: losses.cross_entropy(x, LABELS, **more),
    "focal": lambda x, **more: losses.focal(x, LABELS, **more),
    "binary_cross_entropy": lambda x, **more: losses.binary_cross_entropy(x, LOGITS > 0, **more),
    "gaussian_nll": lambda x, **more: losses.gaussian_nll(x, -LOGITS, jnp.exp(LOGITS), **more),
    "poisson_nll": lambda x, **more: losses.poisson_nll(x, LABELS[..., None] + 0 * LOGITS, **more),
    "weighted_mean": lambda x, **more: losses.weighted_mean(x, **more),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_masked_has_neither_value_nor_gradient(name):
    """Even where it is NaN; and the mask of a Sequence is a mask."""
    loss = KINDS[name]
    bad = np.where(MASK[..., None], LOGITS, np.nan).astype("float32")
    value, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, mask=MASK)))(jnp.asarray(bad))
    rows = np.nonzero(MASK)
    alone = jax.jit(lambda mask: loss(LOGITS, mask=mask))
    each = np.stack([alone(_one(*at)) for at in zip(*rows, strict=True)])
    np.testing.assert_allclose(value, each.mean(), rtol=1e-5)
    assert np.all(np.isfinite(gradient))
    assert not np.any(np.asarray(gradient)[~MASK])
    sequence = jl.Sequence(jnp.asarray(bad), jnp.asarray(MASK))
    np.testing.assert_allclose(loss(sequence), value, rtol=1e-5, atol=1e-6)


def _one(row, step):
    mask = np.zeros_like(MASK)
    mask[row, step] = True
    return mask


@pytest.mark.parametrize("name", KINDS)
def test_weights_count_as_copies_do(name):
    loss = KINDS[name]
    value = loss(LOGITS, weights=MASK * np.float32(2.0), mask=MASK)
    np.testing.assert_allclose(value, loss(LOGITS, mask=MASK), rtol=1e-5, atol=1e-6)
    total = loss(LOGITS, weights=MASK * np.float32(2.0), reduction="sum") if name[:2] != "we" else 0
    if name[:2] != "we":
        np.testing.assert_allclose(total, 2 * loss(LOGITS, mask=MASK, reduction="sum"), rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_that_counts_is_zero(name):
    loss = jax.jit(jax.value_and_grad(lambda x: KINDS[name](x, mask=np.zeros_like(MASK))))
    value, gradient = loss(jnp.asarray(LOGITS))
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    value = losses.cross_entropy(jnp.asarray(LOGITS, dtype), LABELS)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, losses.cross_entropy(LOGITS, LABELS), rtol=2e-2)


def test_a_label_outside_the_classes_is_nan():
    for label in (-1, 5):
        assert np.isnan(losses.cross_entropy(LOGITS[0, :1], np.array([label])))
        assert np.isnan(losses.focal(LOGITS[0, :1], np.array([label])))


def test_ctc_of_sequences():
    logits = jl.Sequence.from_lengths(jnp.asarray(LOGITS), jnp.array([4, 3, 0]))
    labels = jl.Sequence.from_lengths(jnp.asarray(LABELS[:, :2] % 4 + 1), jnp.array([2, 1, 0]))
    ctc = jax.jit(losses.ctc, static_argnames="reduction")
    each = ctc(logits, labels, reduction="none")
    for row, (steps, count) in enumerate([(4, 2), (3, 1)]):
        alone = ctc(LOGITS[row : row + 1, :steps], np.asarray(labels.values)[row : row + 1, :count])
        np.testing.assert_allclose(each[row], alone, rtol=1e-5)
    assert each[2] == 0


def test_dice_of_the_same_region_is_zero():
    region = (LOGITS > 0).astype("float32")
    np.testing.assert_allclose(losses.dice(region, region), 0, atol=1e-6)
    nothing = np.zeros_like(region)
    np.testing.assert_allclose(losses.dice(nothing, nothing), 0, atol=1e-6)
    masked = losses.dice(region, np.where(MASK[..., None], region, 1 - region), mask=MASK)
    np.testing.assert_allclose(masked, 0, atol=1e-6)


def test_linear_cross_entropy_is_that_of_the_logits():
    """Of a Sequence with NaN in its padding, in parts; derivatives of both orders."""
    kernel = jnp.asarray(LOGITS[0].T[:, :3])
    steps = jl.Sequence(jnp.where(MASK[..., None], LOGITS, jnp.nan), jnp.asarray(MASK))
    labels = LABELS % 3

    def parts(kernel, x=steps):
        return losses.linear_cross_entropy(x, kernel, labels, rows=5)

    def whole(kernel):
        return losses.cross_entropy(jnp.asarray(LOGITS) @ kernel, labels, mask=MASK)

    def derivatives(function):
        along = jnp.cos(kernel)
        both = jax.value_and_grad(lambda k: jax.jvp(function, (k,), (along,))[1])
        return jax.jit(lambda k: (function(k), both(k)))(kernel)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        derivatives(parts),
        derivatives(whole),
    )
    half = losses.linear_cross_entropy(steps.map(lambda x: x.astype(jnp.bfloat16)), kernel, labels)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole(kernel), rtol=0.02)


def test_linear_cross_entropy_holds_the_logits_of_a_part():
    x, kernel = jl.spec((512, 8)), jl.spec((8, 1000))

    def loss(x, kernel):
        return losses.linear_cross_entropy(x, kernel, jnp.zeros(512, jnp.int32), rows=32)

    step = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile()
    assert step.memory_analysis().temp_size_in_bytes < 4 * 512 * 1000 / 3


def test_info_nce_leaves_padding_out():
    queries, keys = LOGITS[:, 0], LOGITS[:, 1]
    mask = np.array([True, True, False])
    for symmetric in (True, False):
        whole = losses.info_nce(queries, keys, mask=mask, symmetric=symmetric)
        alone = losses.info_nce(queries[:2], keys[:2], symmetric=symmetric)
        np.testing.assert_allclose(whole, alone, rtol=1e-5, atol=1e-6)
    more = losses.info_nce(queries[:2], keys)
    assert more > losses.info_nce(queries[:2], keys[:2])


def test_rows_of_padding_are_nothing_to_info_nce():
    """Zeros, whose norm has no slope, and NaN."""
    mask = np.array([True, True, False])
    masked = jax.jit(
        jax.value_and_grad(lambda x: losses.info_nce(x, x + 1, mask=mask, symmetric=True))
    )
    for padding in (0.0, np.nan):
        rows = np.where(mask[:, None], LOGITS[:, 0], padding).astype("float32")
        value, gradient = masked(rows)
        alone = jax.jit(lambda x: losses.info_nce(x, x + 1, symmetric=True))(rows[:2])
        np.testing.assert_allclose(value, alone, rtol=1e-5)
        assert np.all(np.isfinite(gradient))
    slope = jax.jit(jax.grad(lambda x: losses.info_nce(x, x)))(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_focal_loss_of_certainty_has_a_gradient(gamma):
    logits = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    value, gradient = jax.value_and_grad(
        lambda x: losses.focal(x, np.array([0, 1]), gamma=gamma, reduction="sum")
    )(logits)
    assert value == 2e4
    np.testing.assert_array_equal(gradient, [[0, 0], [1, -1]])


def test_labels_of_narrow_types():
    """300 classes are more than they hold, and so is what is ignored."""
    logits = np.random.default_rng(4).standard_normal((2, 300)).astype("float32")
    own = losses.cross_entropy(logits, np.array([156, 255]))
    labels = np.array([156, 255], np.uint8)
    np.testing.assert_allclose(losses.cross_entropy(logits, labels, ignore_label=-100), own)
    assert np.isnan(losses.cross_entropy(logits, np.array([1, -1], np.int8)))


def test_what_is_masked_may_have_any_label():
    region = np.array([[[1.0], [0.0]]], "float32")
    labels = np.where(region > 0, region, np.nan)
    mask = np.array([[True, False]])
    loss = jax.jit(jax.value_and_grad(lambda p: losses.dice(p, labels, mask=mask)))
    value, gradient = loss(region)
    assert value == 0
    assert np.all(np.isfinite(gradient))


def test_a_label_of_ctc_outside_the_classes_is_nan():
    each = losses.ctc(LOGITS, np.array([[1, 2], [1, 5], [-1, 2]]), reduction="none")
    np.testing.assert_array_equal(np.isnan(each), [False, True, True])


def test_a_masked_loss_in_accumulated_steps():
    """The parts' sums are divided by the weight of the whole batch."""
    model = jl.Dense(5)
    x = np.random.default_rng(3).standard_normal((4, 6)).astype("float32")
    labels, mask = np.array([0, 1, 2, 3]), np.array([True, True, True, False])

    def loss(logits, labels, mask):
        return losses.cross_entropy(logits, labels, mask=mask)

    states = []
    for parts in (1, 2):
        step = training.train_step(model, loss, optax.sgd(0.1), accumulate=parts)
        state = step.start(jax.random.key(0), x)
        state, metrics = step(state, (x, labels, mask))
        states.append((state.params, metrics["loss"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *states)


ERRORS = {
    "cross_entropy: labels do not fit the predictions float32[3, 4, 5]\n"
    "  expected: integers [3, 4] or probabilities [3, 4, 5]\n"
    "  got:      int32[3, 4, 1]\n"
    "  hint:     labels[..., 0]": lambda: losses.cross_entropy(LOGITS, LABELS[..., None]),
    "  hint:     one-hot labels are probabilities: labels.astype(float)": lambda: (
        losses.cross_entropy(LOGITS, np.zeros((3, 4, 5), np.int32))
    ),
    "cross_entropy: the mask must be bool, True for what counts\n"
    "  got:      int32[3, 4]\n"
    "  hint:     weights= takes numbers": lambda: losses.cross_entropy(LOGITS, LABELS, mask=LABELS),
    "weights must have the first axes of the examples [3, 4]": lambda: losses.cross_entropy(
        LOGITS, LABELS, weights=np.ones(4, np.float32)
    ),
    "class_weights must have a number for each class": lambda: losses.cross_entropy(
        LOGITS, LABELS, class_weights=np.ones(4, np.float32)
    ),
    "the predictions must be floating": lambda: losses.cross_entropy(LABELS, LABELS),
    "label_smoothing must be a number from 0 to 1, got 2": lambda: losses.cross_entropy(
        LOGITS, LABELS, label_smoothing=2
    ),
    "the predictions have no axis 3": lambda: losses.cross_entropy(LOGITS, LABELS, axis=3),
    "unknown reduction 'average'\n  expected: 'mean', 'sum', 'none'": lambda: losses.cross_entropy(
        LOGITS, LABELS, reduction="average"
    ),
    "  hint:     predictions[..., 0]": lambda: losses.binary_cross_entropy(LOGITS[..., :1], LABELS),
    "linear_cross_entropy: the kernel does not fit x float32[3, 4, 5]\n"
    "  expected: floating [5, classes]\n"
    "  got:      float32[7, 5]\n"
    "  hint:     kernel.T": lambda: losses.linear_cross_entropy(
        LOGITS, np.ones((7, 5), "f"), LABELS
    ),
    "linear_cross_entropy: the bias must have a number for each class": lambda: (
        losses.linear_cross_entropy(LOGITS, np.ones((5, 7), "f"), LABELS, bias=np.ones(5, "f"))
    ),
    "  expected: integers [3, 4] or probabilities [3, 4, 7]": lambda: losses.linear_cross_entropy(
        LOGITS, np.ones((5, 7), "f"), LABELS[0]
    ),
    "rows must be a positive int, got 0": lambda: losses.linear_cross_entropy(
        LOGITS, np.ones((5, 7), "f"), LABELS, rows=0
    ),
    "info_nce: queries and keys must be pairs of rows\n"
    "  expected: (batch, features) twice\n"
    "  got:      float32[4, 5] and float32[3, 5]": lambda: losses.info_nce(LOGITS[0], LOGITS[:, 0]),
    "info_nce: the mask must be bool, one for each query": lambda: losses.info_nce(
        LOGITS[0], LOGITS[0], mask=np.ones(3, bool)
    ),
    "ctc: logits and labels do not fit\n"
    "  expected: (batch, time, classes) and integers (batch, labels)": lambda: losses.ctc(
        LOGITS[0], LABELS
    ),
    "ctc: blank -1 is not one of the classes\n  expected: 0 to 4": lambda: losses.ctc(
        LOGITS, LABELS, blank=-1
    ),
    "ctc: the labels must be integers\n  got:      float32[3, 4]": lambda: losses.ctc(
        LOGITS, LABELS.astype("float32")
    ),
    "ctc: the logits must be floating, with a step at least": lambda: losses.ctc(
        LOGITS[:, :0], LABELS
    ),
    "info_nce: queries and keys must be floating\n  got:      int32[3, 4]": lambda: losses.info_nce(
        LABELS, LABELS
    ),
    "positive_weight must be a number, or one for each value of the last axis\n"
    "  expected: [] or [5]\n"
    "  got:      float32[4]": lambda: losses.binary_cross_entropy(
        LOGITS, LOGITS > 0, positive_weight=np.ones(4, np.float32)
    ),
    "the mask must have the first axes of the examples [3, 4]\n  got:      bool[4]": lambda: (
        losses.cross_entropy(LOGITS, LABELS, mask=np.ones(4, bool), ignore_label=0)
    ),
    "ctc: the lengths of the labels must be integers, one for each row": lambda: losses.ctc(
        LOGITS, LABELS, label_lengths=np.ones(2, np.int32)
    ),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text):
    with pytest.raises(jl.JlayersError) as caught:
        ERRORS[text]()
    assert text in str(caught.value)


def test_an_unknown_loss_says_which_there_are():
    with pytest.raises(AttributeError, match=r"did you mean losses.cross_entropy\?"):
        losses.crossentropy  # noqa: B018
