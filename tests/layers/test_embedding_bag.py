"""EmbeddingBag: bags that are padded, masked and flat give the same, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

ROWS = [[3, 1, 1], [], [4]]
FLAT = {"ids": jnp.asarray([3, 1, 1, 4]), "offsets": jnp.asarray([0, 3, 3])}
PADDED = jnp.asarray([[3, 1, 1], [0, 0, 0], [0, 4, 0]])
TABLE = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_one_bag_in_every_form(mode):
    reduce = {"mean": np.mean, "sum": np.sum, "max": np.max}[mode]
    expected = [reduce(TABLE[row], 0) if row else np.zeros(2) for row in ROWS]
    masked = jl.Sequence(PADDED, PADDED != 0)
    steps = jl.Sequence(PADDED[None], jnp.asarray([[True, True, False]]))
    for x in (PADDED, FLAT, masked, steps):
        layer = jl.EmbeddingBag(5, 2, mode=mode, padding_id=None if x is masked else 0)
        y, _ = jax.jit(layer.apply)({"embedding": jnp.asarray(TABLE)}, {}, x)
        if x is steps:
            assert y.mask.tolist() == [[True, True, False]]
            np.testing.assert_allclose(y.values[0, :2], expected[:2], rtol=1e-6)
        else:
            np.testing.assert_allclose(y, expected, rtol=1e-6)


IDS = jl.spec((2, 3), jnp.int32)
WRONG = {
    "takes ids, or a dict with ids": ("sum", (IDS, jl.spec((2, 3)))),
    "takes integer ids, got float32": ("sum", jl.spec((2, 3))),
    "weights are for mode='sum', not 'mean'": ("mean", {"ids": IDS, "weights": jl.spec((2, 3))}),
    "the weights do not fit the ids": ("sum", {"ids": IDS, "weights": jl.spec((2, 2))}),
    "takes an array of rank 1, got rank 2": (
        "sum",
        {"ids": IDS, "offsets": jl.spec((2,), jnp.int32)},
    ),
    "offsets are integers": (
        "sum",
        {"ids": jl.spec((3,), jnp.int32), "offsets": jl.spec((2,))},
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_an_input_that_does_not_fit_is_an_error(text):
    mode, x = WRONG[text]
    with pytest.raises(jl.LayerError) as caught:
        jl.EmbeddingBag(5, 2, mode=mode).init(jax.random.key(0), x)
    assert text in str(caught.value)


def test_an_unknown_mode():
    with pytest.raises(jl.LayerError, match="EmbeddingBag: unknown mode 'average'"):
        jl.EmbeddingBag(5, 2, mode="average")


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2]])
def test_offsets_that_begin_nowhere(offsets):
    layer, params = jl.EmbeddingBag(5, 2), {"embedding": jnp.asarray(TABLE)}
    with pytest.raises(jl.LayerError, match="offsets must begin at 0 and be sorted"):
        layer.apply(params, {}, {**FLAT, "offsets": jnp.asarray(offsets)})


def test_a_bag_over_time_is_not_streamed():
    start, _ = jl.stream(jl.EmbeddingBag(5, 2))
    with pytest.raises(jl.LayerError, match="cannot be streamed: the axis of the bag is that of"):
        start({"embedding": jnp.asarray(TABLE)}, {}, IDS)
