"""scikit-learn's own checks of an estimator."""

import jax
import pytest
from sklearn.utils.estimator_checks import check_estimator

import jlayers as jl
from jlayers.sklearn import Classifier, Regressor


def net(outputs):
    return jl.serial(jl.Dense(32), jax.nn.relu, jl.Dense(outputs))


@pytest.mark.conformance
@pytest.mark.filterwarnings("ignore:.*SkipTest:Warning")
@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_the_checks_of_scikit_learn(kind):
    # In float64: that weights of 2 are rows given twice is asked to 1e-7.
    estimator = kind(net, dtype="float64", epochs=30, learning_rate=0.02, random_state=0)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        results = check_estimator(estimator, on_fail=None)
    assert {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"} == {}
    assert len([r for r in results if r["status"] == "passed"]) > 50
