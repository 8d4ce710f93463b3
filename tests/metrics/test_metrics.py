"""The metrics against scikit-learn's, added up over batches of different sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sk

import jlayers as jl
from jlayers import metrics, training

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((40, 5)).astype("float32")
LABELS = RNG.integers(0, 4, 40, np.int32)  # no label is of the last class
WEIGHTS = RNG.uniform(0.1, 2, 40).astype("float32")
SCORES = (RNG.integers(0, 51, 40) / 50).astype("float32")
TRUE = RNG.integers(0, 2, 40, np.int32)
FOUND = LOGITS.argmax(-1)
PARTS = [slice(0, 7), slice(7, 8), slice(8, 40)]


def confusion(of, **options):
    def metric(logits, labels, weights):
        return of(metrics.confusion_matrix(logits, labels, weights=weights), **options)

    return metric


def scores(metric, **options):
    return lambda y, labels, weights: metric(y, labels, weights=weights, **options)


def of_classes(function, average, **options):
    return function(LABELS, FOUND, average=average, sample_weight=WEIGHTS, **options)


MULTICLASS = {
    "accuracy": (scores(metrics.accuracy), sk.accuracy_score(LABELS, FOUND, sample_weight=WEIGHTS)),
    "top 3": (
        scores(metrics.accuracy, top=3),
        sk.top_k_accuracy_score(LABELS, LOGITS, k=3, sample_weight=WEIGHTS, labels=range(5)),
    ),
    "confusion matrix": (
        scores(metrics.confusion_matrix),
        sk.confusion_matrix(LABELS, FOUND, sample_weight=WEIGHTS),
    ),
    "perplexity": (
        scores(metrics.perplexity),
        np.exp(
            sk.log_loss(
                LABELS,
                jax.nn.softmax(LOGITS.astype("float64")),
                sample_weight=WEIGHTS,
                labels=range(5),
            )
        ),
    ),
} | {
    f"{name}, {average}": (
        confusion(ours, average=average),
        of_classes(theirs, None if average == "none" else average, zero_division=0),
    )
    for name, ours, theirs in [
        ("precision", metrics.precision, sk.precision_score),
        ("recall", metrics.recall, sk.recall_score),
        ("f1", metrics.f1, sk.f1_score),
        ("iou", metrics.iou, sk.jaccard_score),
    ]
    for average in ("macro", "weighted", "micro", "none")
}
BINARY = {
    "roc": (scores(metrics.auc), sk.roc_auc_score(TRUE, SCORES, sample_weight=WEIGHTS)),
    "average precision": (
        scores(metrics.auc, curve="precision_recall"),
        sk.average_precision_score(TRUE, SCORES, sample_weight=WEIGHTS),
    ),
    "binary accuracy": (
        scores(metrics.binary_accuracy, threshold=0.3),
        sk.accuracy_score(TRUE, SCORES > 0.3, sample_weight=WEIGHTS),
    ),
    "r2": (scores(metrics.r2_score), sk.r2_score(TRUE, SCORES, sample_weight=WEIGHTS)),
}


@pytest.mark.parametrize("name", [*MULTICLASS, *BINARY])
def test_batches_add_up_to_scikit_learn(name):
    ours, wanted = (MULTICLASS | BINARY)[name]
    y, labels = (LOGITS, LABELS) if name in MULTICLASS else (SCORES, TRUE)
    parts = [ours(y[part], labels[part], WEIGHTS[part]) for part in PARTS]
    np.testing.assert_allclose(sum(parts).value(), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours(y, labels, WEIGHTS).value(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*MULTICLASS, *BINARY])
def test_masks_leave_out(name):
    """Weights of 0 and masks are alike, and garbage behind a mask is nothing."""
    ours, _ = (MULTICLASS | BINARY)[name]
    y, labels = (LOGITS, LABELS) if name in MULTICLASS else (SCORES, TRUE)
    keep = np.arange(40) % 3 > 0
    wanted = ours(y[keep], labels[keep], WEIGHTS[keep]).value()
    garbage = np.where(keep.reshape(-1, *[1] * (y.ndim - 1)), y, np.nan)
    out = ours(garbage, np.where(keep, labels, 99), WEIGHTS * keep)
    np.testing.assert_allclose(out.value(), wanted, rtol=1e-5)


@pytest.mark.parametrize("far", [1e6, -3e4])
def test_r2_of_labels_far_from_zero(far):
    """In float32, in batches of other means, one of them empty, and by an evaluation."""
    numbers = np.random.default_rng(0)
    labels = (far + numbers.normal(size=60) * 4 + np.repeat([0, 3, -5], 20)).astype(np.float32)
    y = (labels + numbers.normal(size=60)).astype(np.float32)
    wanted = sk.r2_score(labels.astype(np.float64), y.astype(np.float64))
    parts = [metrics.r2_score(y[i : i + 20], labels[i : i + 20]) for i in (0, 20, 40)]
    nothing = metrics.r2_score(y[:5], labels[:5], mask=np.zeros(5, bool))
    for given in ([*parts], [nothing, *parts], [parts[2], nothing, parts[0], parts[1]]):
        np.testing.assert_allclose(sum(given).value(), wanted, rtol=1e-5)
    rest = sum(parts[1:])
    np.testing.assert_allclose((parts[0] + rest).value(), wanted, rtol=1e-5)
    evaluate = training.make_evaluator(
        jl.serial(),
        lambda y, labels: {"r2": metrics.r2_score(y, labels), "mean": labels.mean()},
        training.Batches((y[:, None], labels[:, None]), 9),
    )
    state = training.train_state(jl.serial(), optax.sgd(0.1), jax.random.key(0), y[:, None])
    found = evaluate(state)
    np.testing.assert_allclose(found["r2"], wanted, rtol=1e-5)
    np.testing.assert_allclose(found["mean"], labels.astype(np.float64).mean(), rtol=1e-7)


def test_r2_added_up_leaf_by_leaf():
    """As psum does: about zero, as long as that has the digits."""
    parts = [metrics.r2_score(SCORES[part], TRUE[part], weights=WEIGHTS[part]) for part in PARTS]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    wanted = sk.r2_score(TRUE, SCORES, sample_weight=WEIGHTS)
    np.testing.assert_allclose(added.value(), wanted, rtol=1e-4)
    np.testing.assert_allclose((added + parts[0]).sums["parts"], len(PARTS))


def test_labels_of_narrow_types():
    """More classes than they hold."""
    logits = np.zeros((2, 300), np.float32)
    logits[1, 290] = 1
    right = metrics.accuracy(logits, np.array([0, 34], np.int8))
    assert float(right.value()) == 0.5


def test_a_metric_passes_jit_and_scan():
    def body(total, batch):
        return total + metrics.accuracy(*batch), None

    batches = (LOGITS.reshape(4, 10, 5), LABELS.reshape(4, 10))
    first = metrics.accuracy(batches[0][0], batches[1][0])
    rest = jax.tree.map(lambda x: jnp.asarray(x[1:]), batches)
    total, _ = jax.jit(lambda first, rest: jax.lax.scan(body, first, rest))(first, rest)
    assert total.value() == metrics.accuracy(LOGITS, LABELS).value()


def test_an_evaluation_is_of_all_rows_at_once():
    """F1 and AUC of a data set are not the means of those of its batches."""
    model = jl.serial()

    def measure(y, labels):
        matrix = metrics.confusion_matrix(y, labels)
        return {
            "f1": metrics.f1(matrix),
            "accuracy": (y.argmax(-1) == labels).mean(),
            "perplexity": metrics.perplexity(y, labels),
        }

    evaluate = training.make_evaluator(model, measure, training.Batches((LOGITS, LABELS), 7))
    state = training.train_state(model, optax.sgd(0.1), jax.random.key(0), LOGITS)
    found = evaluate(state)
    assert np.isclose(found["f1"], sk.f1_score(LABELS, FOUND, average="macro"))
    assert np.isclose(found["accuracy"], sk.accuracy_score(LABELS, FOUND))
    assert np.isclose(found["perplexity"], metrics.perplexity(LOGITS, LABELS).value())


def test_a_training_step_has_the_value_of_its_batch():
    def loss(y, labels):
        return jl_loss(y, labels), {"accuracy": metrics.accuracy(y, labels)}

    def jl_loss(y, labels):
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    step = training.train_step(jl.Dense(5), loss, optax.sgd(0.1))
    _, found = step(step.start(jax.random.key(0), LOGITS), (LOGITS, LABELS))
    assert 0 <= float(found["accuracy"]) <= 1


ERRORS = {
    "f1: needs a confusion matrix\n  got:      ndarray\n"
    "  hint:     f1(confusion_matrix(logits, labels))": lambda: metrics.f1(LOGITS),
    "unknown average 'samples'": lambda: metrics.f1(
        metrics.confusion_matrix(LOGITS, LABELS), average="samples"
    ),
    "unknown curve 'pr'\n  expected: 'roc', 'precision_recall'": lambda: metrics.auc(
        SCORES, TRUE, curve="pr"
    ),
    "two different metrics cannot be added": lambda: (
        metrics.accuracy(LOGITS, LABELS) + metrics.perplexity(LOGITS, LABELS)
    ),
    "accuracy: labels must be integers\n  got:      float32\n"
    "  hint:     labels.argmax(-1)": lambda: metrics.accuracy(LOGITS, LOGITS),
    "top must be a positive int": lambda: metrics.accuracy(LOGITS, LABELS, top=0),
    "the metric 'matrix' must be a scalar\n  got:      float32[5, 5]\n"
    "  hint:     metric.then(function) makes one of it": lambda: training.make_evaluator(
        jl.serial(),
        lambda y, labels: {"matrix": metrics.confusion_matrix(y, labels)},
        training.Batches((LOGITS, LABELS), 7),
    )(training.train_state(jl.serial(), optax.sgd(0.1), jax.random.key(0), LOGITS)),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text):
    with pytest.raises(jl.JlayersError) as caught:
        ERRORS[text]()
    assert text in str(caught.value)
