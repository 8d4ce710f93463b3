"""Trees of the same model with or without a transform of weights: what the error says to do."""

import jax
import jax.numpy as jnp
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import transforms

X = jnp.ones((2, 8))
KEY = jax.random.key(0)
PLAIN = jl.serial(a=jl.Dense(4), b=jl.repeat(jl.Dense(4), 2))
PARAMS, STATE = PLAIN.init(KEY, X)
TUNED = transforms.lora(PLAIN, "a/kernel", rank=2)
INSIDE = jl.serial(
    a=transforms.lora(jl.Dense(4), rank=2), b=jl.repeat(transforms.lora(jl.Dense(4), rank=2), 2)
)
SMALL = transforms.quantize(PLAIN)
BOTH = transforms.quantize(TUNED)
PRUNED = transforms.prune(PLAIN, "a/kernel")
_TRANSFER = "jl.transfer(params, old_model, model, x, state=state, key=key)"
_QUANTIZE = "transforms.quantize_params(model, params, state)"
_WITHOUT = "hint:     they are of a model without the transform: "
_MERGE = (
    "hint:     they are of a model with a transform of weights: apply that model, or what "
    "transforms.merge(that_model, params, state) returns"
)


def of(model):
    return model.init(KEY, X)


CASES = [
    (
        lambda: TUNED.apply(PARAMS, STATE, X),
        "lora: params do not fit the model: 2 missing",
        _WITHOUT + _TRANSFER,
    ),
    (
        lambda: INSIDE.apply(PARAMS, STATE, X),
        "serial: params do not fit the model: 4 missing",
        _WITHOUT + _TRANSFER,
    ),
    (
        lambda: SMALL.apply(PARAMS, STATE, X),
        "quantize: params do not fit the model: 2 extra",
        _WITHOUT + _QUANTIZE,
    ),
    (
        lambda: BOTH.apply(PARAMS, STATE, X),
        "quantize: params do not fit the model: 2 missing, 2 extra",
        f"{_WITHOUT}{_TRANSFER}, then {_QUANTIZE}",
    ),
    (
        lambda: PLAIN.apply(*of(TUNED), X),
        "serial: params do not fit the model: 2 extra",
        _MERGE,
    ),
    (
        lambda: PLAIN.apply(*of(SMALL), X),
        "serial: params do not fit the model: 2 missing",
        _MERGE,
    ),
    (
        lambda: PLAIN.apply(*of(PRUNED), X),
        "serial: state does not fit the model: 1 extra",
        _MERGE,
    ),
]


@each(CASES)
def test_errors(case):
    read(case)


def test_other_differences_have_no_such_hint():
    for wrong in (
        lambda: TUNED.apply({"a": PARAMS["a"]}, STATE, X),
        lambda: TUNED.apply({**of(TUNED)[0], "c": {"kernel": X}}, STATE, X),
        lambda: PLAIN.apply({"a": PARAMS["a"]}, STATE, X),
    ):
        with pytest.raises(jl.LayerError, match="params do not fit") as caught:
            wrong()
        assert "transform of weights" not in str(caught.value)
        assert "without the transform" not in str(caught.value)


def test_transfer_to_a_quantised_model():
    hint = "transforms.quantize_params(new_model, params, state): quantised weights are not moved"
    report = jl.transfer(PARAMS, PLAIN, SMALL, X, key=KEY).report
    assert report.left_over == ("a/kernel", "b/kernel")
    assert str(report).splitlines()[-1].strip() == f"hint: {hint}"
    read(
        (
            lambda: jl.transfer(PARAMS, PLAIN, SMALL, X),
            "transfer: a key is needed: 4 arrays of the new model are initialised",
            f"hint:     {hint}",
        )
    )
    params, state = of(SMALL)
    report = jl.transfer(params, SMALL, SMALL, X, state=state).report
    assert report.hint is None
    assert report.complete
