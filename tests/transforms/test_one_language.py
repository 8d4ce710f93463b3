"""One language of selectors: several patterns, and those after a ``!``, in every transform."""

import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import transforms as t

X = jax.random.normal(jax.random.key(1), (2, 4))
MODEL = jl.serial(a=jl.Dense(4), b=jl.Dense(4), c=jl.Dense(2))

PARAMETERS = {
    "dora": functools.partial(t.dora, rank=2),
    "drop_connect": lambda layer, pattern: jl.drop_connect(layer, 0.5, pattern),
    "ema": lambda layer, pattern: t.ema(layer, 0.9, pattern),
    "freeze": t.freeze,
    "lora": functools.partial(t.lora, rank=2),
    "orthogonalize_weights": jl.orthogonalize_weights,
    "prune": t.prune,
    "quantize": t.quantize,
    "spectral_norm": jl.spectral_norm,
    "standardize_weights": jl.standardize_weights,
    "weight_norm": jl.weight_norm,
}


def program(model):
    """The gradient of a training step as text, from which the parameters are seen too."""

    def loss(params, state):
        y, new = model.apply(params, state, X, key=jax.random.key(2), train=True)
        return jnp.sum(y**2), new

    trees = jax.eval_shape(model.init, jax.random.key(0), X)
    text = str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(*trees))
    return jax.tree.map(str, trees), re.sub(r"0x[0-9a-f]+", "", text)


@pytest.mark.parametrize("name", PARAMETERS)
def test_patterns_of_parameters(name):
    wrap = PARAMETERS[name]
    several = wrap(MODEL, ("a/kernel", "b/kernel"))
    negated = wrap(MODEL, ("**/*kernel", "!c/**"))
    # Both leave c out, which the program of one pattern for all shows.
    assert program(several) == program(negated) != program(wrap(MODEL, "**/*kernel"))
    # Where all are negated, all others are selected.
    assert program(wrap(MODEL, ("!**/bias", "!c/**"))) == program(several)
    assert "('**/*kernel', '!c/**')" in repr(negated)
    assert repr(pickle.loads(pickle.dumps(negated))) == repr(negated)
    for pattern, hint in (
        ("a/kernle", "did you mean 'a/kernel'?"),
        (("**/*kernel", "!c/kernle"), "did you mean '!c/kernel'?"),
    ):
        with pytest.raises(jl.LayerError) as error:
            wrap(MODEL, pattern).init(jax.random.key(0), X)
        last = pattern if isinstance(pattern, str) else pattern[-1]
        assert f"{name}: the pattern {last!r} fits no path" in str(error.value)
        assert f"hint:     {hint}" in str(error.value)


def test_patterns_of_what_is_quantised_already():
    once = t.quantize(MODEL, "c/kernel", dtype="float8_e4m3fn")
    twice = t.quantize(once, ("**/*kernel", "!c/*"))
    _, state = twice.init(jax.random.key(0), X)
    assert {path for path in jl.flatten(state) if path.endswith("_q")} == {
        "a/kernel_q",
        "b/kernel_q",
        "c/kernel_q",
    }
    with pytest.raises(jl.LayerError, match="c/kernel is quantised already"):
        t.quantize(once, ("c/*kernel", "!a/**")).init(jax.random.key(0), X)


def test_quantised_parameters_are_those_that_fit():
    params, _ = MODEL.init(jax.random.key(0), X)
    model = t.quantize(MODEL, ("**/*kernel", "!c/**"))
    rest, state = t.quantize_params(model, params)
    np.testing.assert_array_equal(rest["c"]["kernel"], params["c"]["kernel"])
    assert sorted(state) == ["a", "b"]


def test_patterns_of_masks_and_histograms():
    params, state = t.prune(MODEL).init(jax.random.key(0), X)
    masks = t.magnitude_masks(params, state, 1.0, ("**/kernel", "!c/**"))
    kept = {path: bool(mask.any()) for path, mask in jl.flatten(masks).items()}
    assert kept == {
        "a/kernel_prune_mask": False,
        "b/kernel_prune_mask": False,
        "c/kernel_prune_mask": True,
    }
    found = jl.inspection.histograms(params, ("a/**", "c/**", "!**/bias"))
    assert list(found) == ["a/kernel", "c/kernel"]
    for given in (3, ()):
        for name, call in (
            ("histograms", lambda: jl.inspection.histograms(params, given)),  # noqa: B023
            ("magnitude_masks", lambda: t.magnitude_masks(params, state, 0.5, given)),  # noqa: B023
        ):
            text = rf"{name}: pattern must be a pattern or a tuple of patterns, got {given!r}\n"
            with pytest.raises(jl.LayerError, match=text.replace("()", r"\(\)")):
                call()


LAYERS = {
    "clip_gradients": (functools.partial(t.clip_gradients, norm=1.0), "{}({}, norm=1.0)"),
    "gradient_checkpoint": (t.gradient_checkpoint, "remat({1})"),
    "inference": (jl.inference, "{}({})"),
    "stop_gradient": (t.stop_gradient, "{}({})"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_selectors_of_layers(name):
    wrap, text = LAYERS[name]
    a, b = (text.format(name, "Dense(4)") for _ in "ab")
    wanted = f"serial(a={a}, b={b}, c=Dense(2))"
    plain = "".join(repr(wrap(MODEL, ("a", "b"))).split()).replace(",)", ")")
    assert plain == wanted.replace(" ", "")
    for one in (
        wrap(MODEL, ("*", "!c")),
        wrap(MODEL, "!c"),
        wrap(MODEL, lambda path, layer: path in ("a", "b")),
        wrap(MODEL, ["*", "!c"], kind="dense"),
        wrap(MODEL, "!c", kind=jl.Dense),
    ):
        assert repr(one) == repr(wrap(MODEL, ("a", "b")))
    # "**" alone is the model too; and "" the model alone.
    assert wrap(MODEL, "**").maker == wrap(MODEL, "").maker == text.format(name, "").split("(")[0]
    assert repr(wrap(MODEL, "")) != repr(MODEL)
    for given, kind, hint in (
        (("*", "!encodr"), None, "did you mean '!encoder'?"),
        ("encodr", None, "did you mean 'encoder'?"),
        (None, "dens", "did you mean kind='dense'?"),
    ):
        with pytest.raises(jl.LayerError, match=f"{name}: ") as error:
            wrap(jl.serial(encoder=jl.Dense(3)), given, kind=kind)
        assert hint in str(error.value)
    with pytest.raises(
        jl.LayerError, match=rf"(?s){name}: unknown argument 'pattern'.*selector='a'"
    ):
        wrap(MODEL, pattern="a")


def test_clip_gradients_needs_a_selector_or_a_kind():
    with pytest.raises(jl.LayerError, match="clip_gradients: takes a selector or a kind"):
        t.clip_gradients(MODEL, norm=1.0)


def test_a_selector_where_patterns_of_parameters_belong():
    with pytest.raises(jl.LayerError, match=r"(?s)lora: unknown argument 'selector'.*pattern='a'"):
        t.lora(MODEL, selector="a", rank=2)


NET = jl.serial(
    embed=jl.Dense(4),
    blocks=jl.repeat(jl.residual(jl.serial(attend=jl.SelfAttention(2), rest=jl.Dense(4))), 2),
    lstm=jl.LSTM(4),
    head=jl.SelfAttention(2),
)


@pytest.mark.parametrize(
    ("patterns", "kind", "paths"),
    [
        (("embed", "lstm"), None, ["embed", "lstm"]),
        (("*", "!lstm", "!blocks"), None, ["embed", "head"]),
        (("!blocks", "!blocks/**", "!head"), None, ["embed", "lstm"]),
        (("", "embed"), None, ["", "embed"]),
        ((), jl.LSTM, ["lstm"]),
        ((), (jl.SelfAttention, "lstm"), ["blocks/body/attend", "lstm", "head"]),
        (("!head",), "self_attention", ["blocks/body/attend"]),
        (("**:weights", "!head"), None, ["blocks/body/attend:weights"]),
        (("lstm:*", "!lstm:*_gate", "!lstm:candidate"), None, ["lstm:cell"]),
        (("**:weights", "embed", "!**/attend"), None, ["embed", "head:weights"]),
        # Of a wrapper that is selected, the layer inside it.
        ((), jl.repeat, ["blocks"]),
    ],
)
def test_captured_paths(patterns, kind, paths):
    looking = jl.capture(NET, *patterns, kind=kind)
    _, captured = jl.out_spec(looking, jl.spec((1, 3, 4)))
    assert sorted(captured) == sorted(paths)
    assert repr(pickle.loads(pickle.dumps(looking))) == repr(looking)


def test_perturb_and_patch_select_alike():
    x = jax.random.normal(jax.random.key(0), (2, 4))
    params, state = MODEL.init(jax.random.key(0), x)
    (y, values), _ = jl.capture(MODEL, "!a", kind="dense").apply(params, state, 2 * x)
    assert sorted(values) == ["b", "c"]
    patched, _ = jl.patch(MODEL, "!a", kind="dense").apply(params, state, (x, values))
    np.testing.assert_array_equal(patched, y)
    zeros = jax.tree.map(jnp.zeros_like, values)
    same, _ = jl.perturb(MODEL, "!a", kind="dense").apply(params, state, (x, zeros))
    np.testing.assert_array_equal(same, MODEL.apply(params, state, x)[0])


@pytest.mark.parametrize("make", [jl.capture, jl.perturb, jl.patch])
def test_errors_of_captured_paths(make):
    for patterns, kind, texts in (
        (("heat",), None, ("the pattern 'heat' fits no layer", "did you mean 'head'?")),
        (("*", "!heat"), None, ("the pattern '!heat' fits no layer", "did you mean '!head'?")),
        (("heat:weights",), None, ("the pattern 'heat' fits no layer", "did you mean 'head'?")),
        (("embed", "!embed"), None, ("no layer is selected", "'embed', '!embed'")),
        (("head:weights", "!head:*"), None, ("nothing is selected", "'head:weights', '!head:*'")),
        (("head",), "lstn", ("no layer is of the kind 'lstn'", "did you mean kind='lstm'?")),
        (("head",), "lstm", ("no layer is selected", "of that kind: lstm")),
    ):
        with pytest.raises(jl.LayerError, match=f"{make.__name__}: ") as error:
            make(NET, *patterns, kind=kind)
        for text in texts:
            assert text in str(error.value)
