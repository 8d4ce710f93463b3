"""The losses against PyTorch's, in float64: values and gradients in the predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

from jlayers import losses

torch = pytest.importorskip("torch")
functional = torch.nn.functional

pytestmark = pytest.mark.conformance
ROWS, CLASSES = 7, 5
REDUCTIONS = ["mean", "sum", "none"]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def check(ours, theirs, predictions):
    """Both functions of an array agree, and so do the gradients of their random projection."""
    given = torch.tensor(predictions, requires_grad=True)
    wanted = theirs(given)
    direction = convert.projection(tuple(wanted.shape), "float64")
    (wanted * torch.tensor(direction)).sum().backward()
    y = ours(jnp.asarray(predictions))
    gradient = jax.grad(lambda x: jnp.vdot(ours(x), direction))(jnp.asarray(predictions))
    convert.agree([wanted.detach().numpy(), given.grad.numpy()], [y, gradient])


def drawn(*shape):
    return convert.draw_input(shape, "float64")


def probabilities(*shape):
    values = np.exp(np.random.default_rng(3).standard_normal(shape))
    return values / values.sum(-1, keepdims=True)


WEIGHTS = np.array([0.3, 1.0, 2.0, 0.5, 1.5])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weights": WEIGHTS},
        {"label_smoothing": 0.2},
        {"class_weights": WEIGHTS, "label_smoothing": 0.2},
        {"ignore_label": 2},
        {"ignore_label": -100, "class_weights": WEIGHTS, "label_smoothing": 0.1},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_cross_entropy(options, reduction):
    labels = np.array([0, 1, 2, 3, 4, 2, 1])
    if options.get("ignore_label") == -100:
        labels[[0, 3]] = -100
    theirs = {
        "weight": torch.tensor(WEIGHTS) if "class_weights" in options else None,
        "label_smoothing": options.get("label_smoothing", 0.0),
        "ignore_index": options.get("ignore_label", -100),
    }
    check(
        lambda x: losses.cross_entropy(x, labels, reduction=reduction, **options),
        lambda x: functional.cross_entropy(x, torch.tensor(labels), reduction=reduction, **theirs),
        drawn(ROWS, CLASSES),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weights": WEIGHTS, "label_smoothing": 0.2, "ignore_label": 2},
        {"bias": WEIGHTS, "probabilities": True, "label_smoothing": 0.1},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_linear_cross_entropy(options, reduction):
    """In parts of three rows of seven, the gradient of the kernel too."""
    options = dict(options)
    labels = np.array([0, 1, 2, 3, 4, 2, 1])
    if options.pop("probabilities", False):
        labels = probabilities(ROWS, CLASSES)
    x, kernel = drawn(ROWS, 4), drawn(CLASSES, 4)[::-1].copy()
    own = {"label_smoothing": options.get("label_smoothing", 0.0), "reduction": reduction}
    if "class_weights" in options:
        own["weight"] = torch.tensor(WEIGHTS)
    if "ignore_label" in options:
        own["ignore_index"] = 2
    if "bias" in options:
        own["linear_bias"] = torch.tensor(WEIGHTS)

    def theirs(x, kernel):
        return functional.linear_cross_entropy(x, kernel, torch.tensor(labels), **own)

    def ours(x, kernel):
        return losses.linear_cross_entropy(
            x, kernel.T, labels, rows=3, reduction=reduction, **options
        )

    check(lambda x: ours(x, kernel), lambda x: theirs(x, torch.tensor(kernel)), x)
    check(lambda kernel: ours(x, kernel), lambda kernel: theirs(torch.tensor(x), kernel), kernel)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_probabilities(smoothing):
    labels = probabilities(ROWS, CLASSES)
    check(
        lambda x: losses.cross_entropy(
            x, labels, class_weights=WEIGHTS, label_smoothing=smoothing, reduction="mean"
        ),
        lambda x: functional.cross_entropy(
            x, torch.tensor(labels), torch.tensor(WEIGHTS), label_smoothing=smoothing
        ),
        drawn(ROWS, CLASSES),
    )


def test_cross_entropy_of_an_axis():
    labels = convert.draw_ids((2, 3, 4), CLASSES).astype("int64")
    check(
        lambda x: losses.cross_entropy(x, labels, axis=1),
        lambda x: functional.cross_entropy(x, torch.tensor(labels)),
        drawn(2, CLASSES, 3, 4),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy(reduction):
    labels, weights = probabilities(ROWS, CLASSES), np.abs(drawn(ROWS, CLASSES))
    check(
        lambda x: (
            losses.binary_cross_entropy(
                x, labels, positive_weight=WEIGHTS, weights=weights, reduction="sum"
            )
            if reduction == "sum"
            else losses.binary_cross_entropy(
                x, labels, positive_weight=WEIGHTS, reduction=reduction
            )
        ),
        lambda x: functional.binary_cross_entropy_with_logits(
            x,
            torch.tensor(labels),
            torch.tensor(weights) if reduction == "sum" else None,
            reduction=reduction,
            pos_weight=torch.tensor(WEIGHTS),
        ),
        10 * drawn(ROWS, CLASSES),
    )


@pytest.mark.parametrize("per_label", [True, False])
@pytest.mark.parametrize("blank", [0, 4])
def test_ctc(blank, per_label):
    labels = np.array([[1, 1, 2], [3, 2, 2], [1, 3, 1]])
    lengths, label_lengths = np.array([6, 9, 8]), np.array([3, 1, 2])

    def theirs(x):
        return functional.ctc_loss(
            functional.log_softmax(x, -1).movedim(1, 0),
            torch.tensor(labels),
            torch.tensor(lengths),
            torch.tensor(label_lengths),
            blank=blank,
            reduction="mean" if per_label else "none",
        )

    def ours(x):
        with convert.lenient():  # optax multiplies float64 by float32
            return losses.ctc(
                x,
                labels,
                lengths=lengths,
                label_lengths=label_lengths,
                blank=blank,
                per_label=per_label,
                reduction="mean" if per_label else "none",
            )

    check(ours, theirs, drawn(3, 9, CLASSES))


@pytest.mark.parametrize("full", [True, False])
def test_poisson(full):
    counts = np.array([0.0, 1.0, 2.0, 7.0])
    check(
        lambda x: losses.poisson_nll(x, counts, full=full),
        lambda x: functional.poisson_nll_loss(x, torch.tensor(counts), full=full),
        drawn(4),
    )


def test_gaussian():
    """The gradient in the variance too, below the smallest one as well."""
    mean, labels = drawn(6), probabilities(6)
    variance = np.array([1e-3, 0.1, 1.0, 2.0, 5.0, 0.02])
    for epsilon in (1e-6, 0.05):
        check(
            lambda v, e=epsilon: losses.gaussian_nll(mean, labels, v, epsilon=e, reduction="none"),
            lambda v, e=epsilon: functional.gaussian_nll_loss(
                torch.tensor(mean), torch.tensor(labels), v, eps=e, reduction="none"
            ),
            variance,
        )


def test_focal_of_gamma_zero_is_cross_entropy():
    labels = np.array([0, 1, 2, 3, 4, 2, 1])
    check(
        lambda x: losses.focal(x, labels, gamma=0.0),
        lambda x: functional.cross_entropy(x, torch.tensor(labels)),
        drawn(ROWS, CLASSES),
    )


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["", "weights"])
def test_focal(class_weights):
    labels = np.array([0, 1, 2, 3, 4, 2, 1])
    own = np.ones(CLASSES) if class_weights is None else class_weights

    def theirs(x):
        log_p = functional.log_softmax(x, -1)[range(ROWS), labels]
        return (-torch.tensor(own)[labels] * (1 - log_p.exp()) ** 1.5 * log_p).mean()

    check(
        lambda x: losses.focal(x, labels, gamma=1.5, class_weights=class_weights),
        theirs,
        drawn(ROWS, CLASSES),
    )


@pytest.mark.parametrize("symmetric", [True, False])
def test_info_nce(symmetric):
    keys = drawn(ROWS, 4)[::-1].copy()

    def theirs(x):
        scores = functional.normalize(x) @ functional.normalize(torch.tensor(keys)).T / 0.3
        own = torch.arange(ROWS)
        loss = functional.cross_entropy(scores, own)
        return (loss + functional.cross_entropy(scores.T, own)) / 2 if symmetric else loss

    check(
        lambda x: losses.info_nce(x, keys, temperature=0.3, symmetric=symmetric),
        theirs,
        drawn(ROWS, 4),
    )


def test_dice():
    labels = (drawn(2, 3, 4, 2)[..., ::-1] > 0).astype("float64")

    def theirs(x):
        given = torch.tensor(labels)
        axes = (1, 2)
        both, all_true, all_found = (v.sum(axes) for v in (x * given, given, x))
        wrong = 0.3 * (all_found - both) + 0.7 * (all_true - both)
        return (1 - (both + 1) / (both + wrong + 1)).mean()

    check(
        lambda x: losses.dice(x, labels, false_positive_weight=0.3, false_negative_weight=0.7),
        theirs,
        probabilities(2, 3, 4, 2),
    )
