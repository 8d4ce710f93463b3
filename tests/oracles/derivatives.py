"""Two functions agree in value and derivatives, with one compiled program a side."""

import jax
import jax.numpy as jnp
import numpy as np


def loss_of(function):
    """A number of all that ``function`` gives, in which every value has a weight of its own."""

    def loss(*arguments):
        parts = jax.tree.leaves(function(*arguments))
        weights = [jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape) for p in parts]
        return sum(jnp.sum(jnp.sin(p) * w) for p, w in zip(parts, weights, strict=True))

    return loss


def compare(ours, theirs, arguments, value=1e-10, derivatives=1e-9):
    """Values, gradients in all arguments and tangents agree, to these tolerances."""
    direction = jax.tree.map(lambda a: np.sin(a) + 1, arguments)

    def all_of(function):
        def run(arguments, direction):
            y, tangent = jax.jvp(function, arguments, direction)
            gradient = jax.grad(loss_of(function), tuple(range(len(arguments))))(*arguments)
            return y, (gradient, tangent)

        return jax.jit(run)(arguments, direction)

    (y, slopes), (wanted, wanted_slopes) = all_of(ours), all_of(theirs)
    close(y, wanted, value)
    close(slopes, wanted_slopes, derivatives)


def compare_transforms(ours, theirs, transforms, arguments, tolerance=1e-8):
    """Each transform makes the same of both: ``transform(function)(*arguments)``, all at once."""

    def all_of(function):
        def run(*arguments):
            return {made.__name__: made(function)(*arguments) for made in transforms}

        return jax.jit(run)(*arguments)

    close(all_of(ours), all_of(theirs), tolerance)


def close(got, wanted, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)
