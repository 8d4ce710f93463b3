"""LocalConv: its initial scale, and what is refused. Its values are in test_flax.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

X = jl.spec((2, 6, 5, 4))


def test_the_initial_scale_is_that_of_one_pixel():
    kernel = jl.LocalConv(8, 3).init(jax.random.key(0), X)[0]["kernel"]
    limit = np.sqrt(6 / (9 * 4 + 9 * 8))
    assert 0.99 * limit < abs(np.asarray(kernel)).max() <= limit


WRONG = {
    "takes an array of rank 3 or more, got rank 2": (jl.LocalConv(8, 3), jl.spec((2, 4))),
    "the dilated kernel (7, 7) is larger than the input (6, 5)": (jl.LocalConv(8, 7), X),
    "padding ((1, 1),) has 1 entries for 2 spatial axes": (jl.LocalConv(8, 3, padding=(1,)), X),
}


@pytest.mark.parametrize("text", WRONG)
def test_an_input_that_does_not_fit_is_an_error(text):
    layer, x = WRONG[text]
    with pytest.raises(jl.LayerError) as caught:
        layer.init(jax.random.key(0), x)
    assert text in str(caught.value)


def test_images_of_another_size_and_masks_are_refused():
    layer = jl.LocalConv(3, 1)
    params, state = layer.init(jax.random.key(0), jl.spec((2, 5, 4)))
    with pytest.raises(jl.LayerError, match="its parameters were made for 5"):
        layer.apply(params, state, jnp.ones((2, 6, 4)))
    with pytest.raises(jl.LayerError, match="takes no mask: each place has weights of its own"):
        layer.apply(params, state, jl.Sequence(jnp.ones((2, 5, 4))))
