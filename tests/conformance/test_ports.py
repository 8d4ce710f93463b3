"""The ports of docs/coming-from-*.md: both models of a page, with the same weights."""

import contextlib
import io
import pathlib

import equinox
import jax
import jax.numpy as jnp
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")

from oracles.against_torch import load_random, reference  # noqa: E402
from test_docs import FENCE  # noqa: E402

pytestmark = pytest.mark.conformance
DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"


def names_of(page, language, names):
    """What the blocks of a language define on a page."""
    names = dict(names)
    with contextlib.redirect_stdout(io.StringIO()), convert.lenient():
        for fence in FENCE.finditer((DOCS / page).read_text()):
            if fence["language"] == language:
                exec(fence["inside"], names)
    return names


@pytest.mark.oracle("PyTorch")
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_resnet_of_the_page_for_pytorch(train):
    theirs = names_of("coming-from-pytorch.md", "py", {"torch": torch, "nn": torch.nn})
    ours = names_of("coming-from-pytorch.md", "python", {})
    with jax.enable_x64(True):
        module = theirs["ResNet"](10).double().train(train)
        model, x = ours["resnet"](10), convert.draw_input((3, 16, 16, 3), "float64")
        weights = load_random(module)
        specs = jax.eval_shape(model.init, jax.random.key(0), x)
        state = ours["from_torch"](specs[1], weights)
        wanted = reference(module, lambda x: module(x.movedim(-1, 1)), x)
        parameters = {name: weights[name] for name, _ in module.named_parameters()}

        def apply(weights, x):
            return model.apply(ours["from_torch"](specs[0], weights), state, x, train=train)

        convert.agree(
            wanted, convert.value_and_gradients(lambda w, x: apply(w, x)[0], parameters, x)
        )
        if train:
            new = apply(parameters, jnp.asarray(x))[1]
            after = {name: value.numpy() for name, value in module.state_dict().items()}
            # PyTorch keeps the unbiased variance.
            convert.agree(*map(means, (ours["from_torch"](specs[1], after), new)))


def means(state):
    return {path: leaf for path, leaf in jl.flatten(state).items() if path.endswith("mean")}


@pytest.mark.oracle("Equinox")
def test_the_classifier_of_the_page_for_equinox():
    page = "coming-from-equinox.md"
    theirs = names_of(page, "py", {"eqx": equinox, "jax": jax, "jnp": jnp})
    ours = names_of(page, "python", {})
    with jax.enable_x64(True), convert.lenient():
        given = theirs["Classifier"](20, 6, 5, 3, jax.random.key(0))
        arrays, rest = equinox.partition(given, equinox.is_array)
        weights = convert.draw(arrays)
        ids = convert.draw_ids((4, 7), 20)

        def module(weights, ids):
            return jax.vmap(equinox.combine(weights, rest))(ids)

        def layer(weights, ids):
            params = ours["from_equinox"](equinox.combine(weights, rest))
            return ours["classifier"](20, 6, 5, 3).apply(params, {}, ids)[0]

        convert.compare(module, layer, weights, ids)
