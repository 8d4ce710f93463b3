"""GMMAttention against a loop from the papers' equations, with padding and in a stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.oracle("a loop")
def test_each_row_is_that_of_its_valid_steps_alone():
    layer = jl.GMMAttention(2, 3, 4, weights=True)
    numbers = np.random.default_rng(0)
    x, memory = (numbers.normal(size=size) for size in ((3, 6, 5), (3, 7, 2)))
    masks = numbers.random((3, 6)) < 0.7, numbers.random((3, 7)) < 0.7
    with jax.enable_x64(True):
        given = tuple(
            jl.Sequence(jnp.where(mask[..., None], a, jnp.nan), jnp.asarray(mask))
            for a, mask in zip((x, memory), masks, strict=True)
        )
        params = convert.draw(jax.eval_shape(layer.init, jax.random.key(0), given)[0])
        (y, weights), _ = jax.jit(layer.apply)(params, {}, given)
        plain = jl.GMMAttention(2, 3, 4)
        start, step = jl.stream(plain)
        carry, blocks = start(params, {}, (given[0][:, :1], given[1])), []
        for cut in (slice(0, 4), slice(4, 6)):
            out, carry = step(params, {}, carry, (given[0][:, cut], given[1]))
            blocks.append(out.fill())
        whole = y.fill()
    np.testing.assert_allclose(np.concatenate(blocks, 1), whole, rtol=1e-9, atol=1e-12)
    y, weights = np.asarray(y.values), np.asarray(weights)
    p = {name: np.asarray(value) for name, value in params.items()}
    for row in range(3):
        rows, steps = (np.flatnonzero(mask[row]) for mask in masks)
        for head in range(2):
            mean = np.zeros(3)
            for t in rows:
                cut = slice(4 * head, 4 * head + 4)
                h = x[row, t] @ p["hidden_kernel"][:, cut] + p["hidden_bias"][cut]
                raw = np.einsum("u,ukc->kc", np.maximum(h, 0), p["mixture_kernel"][head])
                share, moved, spread = (raw + p["mixture_bias"][head]).T
                mean, spread = mean + softplus(moved), softplus(spread) + 1e-3
                share = np.exp(share) / np.exp(share).sum()
                wanted = [
                    sum(share * np.exp(-(((j - mean) / spread) ** 2) / 2) / spread)
                    / np.sqrt(2 * np.pi)
                    for j in range(len(steps))
                ]
                np.testing.assert_allclose(weights[row, head, t][steps], wanted, rtol=1e-9)
                out = np.array(wanted) @ memory[row][steps]
                got = y[row, t, 2 * head : 2 * head + 2]
                np.testing.assert_allclose(got, out, rtol=1e-9, atol=1e-12)


def test_a_bias_has_nothing_to_be_added_to():
    x = {"x": jl.spec((2, 3, 4)), "memory": jl.spec((2, 5, 4)), "bias": jl.spec((2, 3, 5))}
    with pytest.raises(jl.LayerError, match="has no scores that a bias is added to"):
        jl.out_spec(jl.GMMAttention(1, 2, 3), x)
