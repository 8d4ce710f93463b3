"""scikit-learn's estimators around models: trained as by hand, and asked as any other estimator."""

import functools
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jlayers as jl
from jlayers import training
from jlayers.sklearn import Classifier, Regressor
from jlayers.sklearn.trainer import trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABELS = np.array(["cat", "dog", "eel"])[np.argmax(X, 1)]
NET = jl.serial(jl.Dense(8), jax.nn.tanh, jl.Dense(3))
CLASSIFIER = Classifier(NET, learning_rate=0.05, epochs=30, random_state=1)
LINE = Regressor(jl.Dense(1), tx=optax.sgd, learning_rate=0.1, epochs=4, batch_size=64)


@pytest.fixture(autouse=True, scope="module")
def as_a_user():
    """optax's Adam counts steps in integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def net(outputs):
    return jl.serial(jl.Dense(16), jax.nn.relu, jl.Dense(outputs))


@pytest.fixture(scope="module")
def fitted():
    return clone(CLASSIFIER).fit(X, LABELS)


def test_a_classifier_of_texts(fitted):
    assert fitted.classes_.tolist() == ["cat", "dog", "eel"]
    assert fitted.n_features_in_ == 3
    assert fitted.score(X, LABELS) > 0.9
    chances = fitted.predict_proba(X)
    assert chances.dtype == np.float64
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-12)
    assert (fitted.classes_[chances.argmax(1)] == fitted.predict(X)).all()
    state = fitted.train_state_
    logits = fitted.model_.apply(state.params, state.state, jnp.asarray(X, jnp.float32))[0]
    np.testing.assert_allclose(chances, jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
    assert [record.epoch for record in fitted.records_] == list(range(1, 31))
    assert fitted.train_state_.step == 30 * 2


def test_a_row_has_the_same_output_in_any_company(fitted):
    together = fitted.predict_proba(X)
    for rows in (slice(0, 1), slice(7, 40), slice(3, 36)):
        np.testing.assert_array_equal(fitted.predict_proba(X[rows]), together[rows])


def descended(x, y, weights, kernel, bias, epochs, rate):
    """Gradient descent on the weighted mean of squared errors, in NumPy."""
    weights = weights / weights.sum()
    for _ in range(epochs):
        slope = 2 * weights[:, None] * (x @ kernel + bias - y) / y.shape[1]
        kernel, bias = kernel - rate * x.T @ slope, bias - rate * slope.sum(0)
    return kernel, bias


@pytest.mark.parametrize("columns", [None, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_regressor_descends_as_numpy_does(columns, weighted):
    weights = RNG.uniform(0, 5, 40) * (RNG.random(40) < 0.7) if weighted else None
    y = RNG.normal(size=(40,) if columns is None else (40, columns))
    line = clone(LINE).set_params(model=lambda outputs: jl.Dense(outputs), random_state=7)
    start = clone(line).set_params(learning_rate=0.0).fit(X, y).train_state_.params
    line.fit(X, y, sample_weight=weights)
    kernel, bias = descended(
        X,
        y.reshape(40, -1),
        np.ones(40) if weights is None else weights,
        np.asarray(start["kernel"]),
        np.asarray(start["bias"]),
        4,
        0.1,
    )
    np.testing.assert_allclose(line.train_state_.params["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(line.train_state_.params["bias"], bias, rtol=1e-4, atol=1e-5)
    assert line.predict(X).shape == y.shape
    np.testing.assert_allclose(
        line.predict(X), (X @ kernel + bias).reshape(y.shape), rtol=1e-4, atol=1e-5
    )


def test_the_default_loss_of_a_classifier_is_cross_entropy():
    model = jl.Dense(3, kernel_init=jax.nn.initializers.zeros)
    classifier = Classifier(model, tx=optax.sgd, learning_rate=1.0, epochs=1, batch_size=64)
    kernel = classifier.fit(X, LABELS).train_state_.params["kernel"]
    wrong = 1 / 3 - (LABELS[:, None] == classifier.classes_)
    np.testing.assert_allclose(kernel, -X.T @ wrong / 40, rtol=1e-4, atol=1e-5)


def test_partial_fit_takes_one_epoch_and_goes_on():
    y = X @ [1.0, 2.0, 3.0]
    whole, parts = (clone(LINE).set_params(random_state=3) for _ in range(2))
    whole.fit(X, y)
    for _ in range(4):
        parts.partial_fit(X, y)
    assert parts.train_state_.step == whole.train_state_.step == 4
    assert len(parts.records_) == 4
    np.testing.assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-4, atol=1e-5)
    parts.fit(X, y)  # from the start
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))


def test_partial_fit_of_a_classifier_knows_classes_that_come_later():
    classifier = clone(CLASSIFIER)
    few = LABELS != "eel"
    classifier.partial_fit(X[few], LABELS[few], classes=["eel", "dog", "cat"])
    assert classifier.classes_.tolist() == ["cat", "dog", "eel"]
    for _ in range(30):
        classifier.partial_fit(X, LABELS)
    assert classifier.score(X, LABELS) > 0.9


def test_the_seed_decides_everything():
    noisy = jl.serial(jl.Dense(8), jl.Dropout(0.5), jl.Dense(3))
    classifier = Classifier(noisy, epochs=2, batch_size=8)

    def chances(seed):
        return clone(classifier).set_params(random_state=seed).fit(X, LABELS).predict_proba(X)

    np.testing.assert_array_equal(chances(5), chances(5))
    assert not np.array_equal(chances(5), chances(6))
    assert not np.array_equal(chances(None), chances(None))
    np.testing.assert_array_equal(
        chances(np.random.RandomState(5)), chances(np.random.RandomState(5))
    )


def test_a_clone_has_the_same_layer_and_has_not_been_trained(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert copy.model is fitted.model is NET
    with pytest.raises(NotFittedError):
        copy.predict(X)


def test_a_pipeline_in_a_search():
    trainer.cache_clear()
    wide = jl.serial(jl.Dense(16), jax.nn.relu, jl.Dense(3))
    pipeline = make_pipeline(StandardScaler(), clone(CLASSIFIER))
    grid = {"classifier__model": [NET, wide], "classifier__learning_rate": [1e-5, 0.05]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(100 * X, LABELS)
    assert search.best_params_["classifier__learning_rate"] == 0.05
    assert search.best_params_["classifier__model"] in (NET, wide)
    assert search.predict(100 * X[:1]).tolist() == [LABELS[0]]
    # Four candidates of nine fits.
    assert trainer.cache_info().misses == 4


def test_pickles_predict_and_train_on(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))
    ours = pickle.loads(pickle.dumps(fitted)).partial_fit(X, LABELS)
    np.testing.assert_array_equal(
        copy.partial_fit(X, LABELS).predict_proba(X), ours.predict_proba(X)
    )
    assert copy.train_state_.step == 62


def test_early_stopping_keeps_the_best_state():
    stopping = training.EarlyStopping("eval/loss", patience=2, restore_best=True)
    classifier = clone(CLASSIFIER).set_params(
        early_stopping=stopping, learning_rate=1.0, epochs=40, validation_fraction=0.25
    )
    classifier.fit(X, LABELS)
    records = classifier.records_
    assert 3 <= len(records) < 40
    losses = [record.metrics["eval/loss"] for record in records]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3
    assert classifier.train_state_.step == records[best].step
    # 30 rows in batches of 32.
    assert [record.step for record in records] == list(range(1, len(records) + 1))
    assert all(0 <= record.metrics["eval/accuracy"] <= 1 for record in records)
    right = 10 * np.array([record.metrics["eval/accuracy"] for record in records])
    np.testing.assert_allclose(right, right.round(), atol=1e-4)  # of ten rows


def test_early_stopping_of_a_regressor():
    stopping = training.EarlyStopping("eval/loss", patience=1)
    line = clone(LINE).set_params(early_stopping=stopping, learning_rate=3.0, epochs=20)
    line.fit(X, X[:, 0])
    assert len(line.records_) == 2


def test_filling_counts_for_nothing():
    """A batch of 40 rows that is filled up to 64 gives what a batch of 40 gives, with NaN too."""
    loss = functools.partial(_nan_where_repeated, 40)
    exact, filled = (
        clone(LINE).set_params(batch_size=size, random_state=0, epochs=1, loss=loss)
        for size in (40, 64)
    )
    y = X[:, 0]
    np.testing.assert_allclose(
        exact.fit(X, y).predict(X), filled.fit(X, y).predict(X), rtol=1e-5, atol=1e-6
    )


def _nan_where_repeated(rows, y, target):
    repeated = (jnp.arange(y.shape[0]) >= rows)[:, None]
    return jnp.where(repeated, jnp.nan, (y - target) ** 2)


def test_tokens_and_images():
    tokens = RNG.integers(0, 20, (12, 5))
    of_text = jl.serial(jl.Embedding(20, 4), lambda x: x.mean(1), jl.Dense(2))
    classifier = Classifier(of_text, dtype="int32", epochs=1).fit(tokens, tokens[:, 0] > 9)
    assert classifier.predict(tokens.astype(float)).dtype == bool
    read(
        (
            lambda: classifier.predict(tokens + 0.5),
            "dtype is int32, and X has values that it cannot hold",
            "expected: whole numbers in the range of int32",
            "hint:     dtype='float32'",
        )
    )
    images = RNG.normal(size=(12, 6, 6, 1))
    conv = jl.serial(jl.Conv(2, 3), lambda x: x.mean((1, 2)), jl.Dense(2))
    assert Classifier(conv, epochs=1).fit(images, images[:, 0, 0, 0] > 0).n_features_in_ == 6


def test_hooks_get_the_records():
    seen = []
    line = Regressor(jl.Dense(1), hooks=[seen.append], epochs=3).fit(X, X[:, 0])
    assert seen == line.records_


def test_scores_with_weights_and_by_folds():
    y = X @ [1.0, 2.0, 3.0]
    line = clone(LINE).set_params(epochs=40)
    assert cross_val_score(line, X, y, cv=2).min() > 0.9
    line.fit(X, y)
    assert line.score(X, y, sample_weight=np.arange(40)) > 0.9


ERRORS = [
    (
        lambda: Classifier(jl.Dense(2)).fit(X, LABELS),
        "the model must give a logit for each class",
        "expected: an output of shape (40, 3), for the classes 'cat', 'dog', 'eel'",
        "got:      (40, 2)",
        "hint:     a function of their number: model=lambda classes: jl.Dense(classes)",
    ),
    (
        lambda: Regressor(jl.Dense(2)).fit(X, X[:, 0]),
        "the model must give a number for each target",
        "expected: an output of shape (40, 1)",
        "got:      (40, 2)",
        "hint:     a function of their number: model=lambda targets: jl.Dense(targets)",
    ),
    (
        lambda: Regressor("dense").fit(X, X[:, 0]),
        "model must be a layer, or a function that returns one",
        "expected: a jl.Layer, or model(outputs)",
        "got:      'dense'",
    ),
    (
        lambda: Regressor(jl.branch(jl.Dense(1), jl.Dense(1))).fit(X, X[:, 0]),
        "the model's output must be one array, with a row for each row of X",
        "got:      (float32[40, 1], float32[40, 1])",
    ),
    (
        lambda: Regressor(jl.Dense(1), tx=optax.sgd(0.1)).fit(X, X[:, 0]),
        "tx must be a function of the learning rate",
        "expected: tx=optax.adam, learning_rate=1e-3",
        "got:      GradientTransformation",
        "hint:     functools.partial(optax.adamw, weight_decay=1e-2) for further arguments",
    ),
    (
        lambda: Regressor(jl.Dense(1), learning_rate="fast").fit(X, X[:, 0]),
        "learning_rate must be a number of at least 0, got 'fast'",
    ),
    (
        lambda: Regressor(jl.Dense(1), loss=lambda y, t: ((y - t) ** 2).mean()).fit(X, X[:, 0]),
        "fit: loss must give the loss of each example",
        "expected: a floating array of shape (32,) or (32, ...)",
        "got:      float32[]",
        "hint:     optax.huber_loss, or functools.partial(losses.cross_entropy, reduction='none')",
    ),
    (
        lambda: clone(LINE).fit(X, X[:, 0], sample_weight=np.ones((40, 1))),
        "sample_weight must have a number for each row",
        "expected: shape (40,)",
        "got:      (40, 1)",
    ),
    (
        lambda: clone(LINE).fit(X, X[:, 0], sample_weight=np.arange(40) - 1),
        "sample_weight must be positive or zero, and not zero for all rows",
        "got:      from -1 to 38",
    ),
    (
        lambda: clone(CLASSIFIER).partial_fit(X, LABELS),
        "the first call of partial_fit needs all classes",
        "hint:     partial_fit(X, y, classes=np.unique(all_labels))",
    ),
    (
        lambda: (
            clone(CLASSIFIER)
            .partial_fit(X, LABELS, classes=np.unique(LABELS))
            .partial_fit(X, LABELS, classes=["cat", "dog"])
        ),
        "classes are not those of the first call of partial_fit",
        "expected: 'cat', 'dog', 'eel'",
        "got:      'cat', 'dog'",
    ),
    (
        lambda: clone(CLASSIFIER).partial_fit(X, LABELS, classes=["cat", "dog"]),
        "y has labels that are not among the classes",
        "expected: 'cat', 'dog'",
        "got:      'eel'",
    ),
    (
        lambda: clone(LINE).partial_fit(X, X[:, 0]).partial_fit(X, X[:, :1]),
        "y has other columns than in the first call",
        "expected: shape (40,)",
        "got:      (40, 1)",
    ),
]


@each(ERRORS)
def test_an_error_says_what_is_wrong(case):
    read(case)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError) as caught:
        jl.sklearn.Classifier  # noqa: B018
    assert str(caught.value).splitlines() == [
        "jlayers.sklearn.Classifier needs the package scikit-learn, which is not installed",
        "  hint:     pip install 'jlayers[sklearn]'",
    ]
    with pytest.raises(AttributeError, match=r"did you mean sklearn\.Classifier\?"):
        jl.sklearn.Clasifier  # noqa: B018
