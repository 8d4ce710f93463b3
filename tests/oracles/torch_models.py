"""Whole networks of PyTorch, and the models with their weights, which interop.match loads."""

import jax
import numpy as np
import pytest

import jlayers as jl

# Its examples are looked for in an environment without PyTorch too.
torch = pytest.importorskip("torch")

# Of the largest number.
NEAR = {"float64": 1e-12, "float32": 1e-5}


def randomised(module):
    """The module in float64 and eval mode, with random parameters and statistics."""
    generator = torch.Generator().manual_seed(0)
    module = module.double().eval()
    for name, value in module.state_dict().items():
        if value.dim():
            drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            # Scales near 1, so that what goes through many layers neither vanishes nor explodes.
            scale = value.dim() == 1 and name.endswith(("weight", "running_var", "parameter"))
            drawn = 1 + 0.2 * drawn if scale else drawn * value[0].numel() ** -0.5
            value.copy_(drawn.abs() if "var" in name else drawn)
    return module


def channels_first(x):
    """Images and sequences as PyTorch wants them, float64; ids as they are."""
    x = torch.tensor(np.asarray(x))
    return x.movedim(-1, 1) if x.dim() > 2 and x.is_floating_point() else x


def agree(module, model, x, want, *, rules=(), dtypes=tuple(NEAR)):
    """With the weights of ``module``, loaded with ``rules``, the model gives ``want`` for ``x``.

    The weights are also written back as they were.
    """
    arrays = {name: value.numpy() for name, value in module.state_dict().items()}
    plan = jl.interop.match(model, x, arrays, rules=rules)
    assert plan.complete, str(plan)
    params, state = plan.load()
    back = plan.export(params, state)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    apply = jax.jit(model.apply)
    for dtype in dtypes:

        def cast(a, dtype=dtype):
            return a.astype(dtype) if np.issubdtype(a.dtype, np.floating) else a

        got = apply(*jax.tree.map(cast, (params, state, x)))[0]
        for have, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert have.dtype == dtype
            wanted = np.asarray(wanted)
            assert np.std(wanted) > 1e-3, "a constant shows nothing"
            np.testing.assert_allclose(have, wanted, 0, NEAR[dtype] * np.abs(wanted).max())
