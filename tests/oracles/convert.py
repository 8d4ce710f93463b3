"""The same weights elsewhere and here, and the comparison of two functions that share them.

Each conversion gives jlayers parameters for the weights of a Keras, Flax or PyTorch layer, under
the names that these have there. They are differentiable, so that gradients are compared with
respect to the other library's weights; as each reaches every value of our parameters, equal
gradients there are equal gradients here.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np


@contextlib.contextmanager
def lenient():
    """For other libraries' code, which promotes dtypes and ranks as it pleases."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def compare(theirs, ours, weights, x, vanishing=frozenset()):
    """Two functions of (weights, x) agree in value and in all gradients.

    ``vanishing``: the ends of the paths of gradients that are zero but for rounding.
    """
    with lenient():
        wanted = value_and_gradients(theirs, weights, x)
    agree(wanted, value_and_gradients(ours, weights, x), vanishing)


def value_and_gradients(function, weights, x):
    """``function(weights, x)``, and the gradients of its random projection in both arguments."""

    def projected(weights, x):
        y = function(weights, x)
        parts = jax.tree.map(lambda leaf: jnp.vdot(leaf, projection(leaf.shape, leaf.dtype)), y)
        return sum(jax.tree.leaves(parts)), y

    floating = jnp.issubdtype(x.dtype, jnp.floating)
    gradient = jax.value_and_grad(projected, (0, 1) if floating else (0,), has_aux=True)
    # Nearly all the time goes into compiling what then runs once.
    fast = {"xla_backend_optimization_level": 0}
    (_, y), gradients = jax.jit(gradient, compiler_options=fast)(weights, x)
    return {"y": y, "gradient": gradients}


def agree(wanted, got, vanishing=frozenset()):
    """Two trees of arrays are equal up to rounding, and none of the wanted ones is all zero."""

    def leaves_agree(path, want, have):
        name = jax.tree_util.keystr(path)
        want, have = np.asarray(want), np.asarray(have)
        if name.endswith(tuple(vanishing)):
            assert max(np.abs(want).max(), np.abs(have).max()) < 1e-12, name
            return
        assert np.any(want), f"{name} is all zero, and shows nothing"
        assert have.dtype == want.dtype, name
        # Sums of many terms: rounding goes with the largest, not with each result.
        near = {"float32": 1e-5, "float64": 1e-12}[want.dtype.name] * np.abs(want).max()
        np.testing.assert_allclose(have, want, 0, near, equal_nan=False, err_msg=name)

    jax.tree.map_with_path(leaves_agree, wanted, got)


def projection(shape, dtype):
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


def draw(tree):
    """Random values in the shapes and dtypes of ``tree``; positive where the name says variance."""
    rng = np.random.default_rng(1)

    def leaf(path, like):
        value = 0.5 * rng.standard_normal(like.shape)
        value = abs(value) + 0.5 if "var" in jax.tree_util.keystr(path) else value
        return value.astype(like.dtype)

    return jax.tree.map_with_path(leaf, tree)


def draw_input(shape, dtype=np.float32):
    return np.random.default_rng(2).standard_normal(shape).astype(dtype)


def draw_ids(shape, num_embeddings):
    return np.random.default_rng(2).integers(0, num_embeddings, shape, np.int32)


def cut(options, rank):
    """The options with as many entries in each tuple as there are spatial axes."""
    return {
        name: value[:rank] if isinstance(value, tuple) else value for name, value in options.items()
    }


def label(options):
    """A test's name from the options that it is about."""
    return ",".join(f"{name}={value}" for name, value in options.items()) or "default"


def same(weights):
    return weights


def renamed(**names):
    """Our names for theirs; a weight that is not there (no bias, say) is left out."""
    return lambda weights: {
        ours: weights[theirs] for ours, theirs in names.items() if theirs in weights
    }


# Keras


def keras_depthwise(weights):
    """Keras keeps (*size, in, multiplier); a grouped kernel is (*size, 1, in * multiplier)."""
    kernel = weights["kernel"]
    return {**weights, "kernel": kernel.reshape(*kernel.shape[:-2], 1, -1)}


def keras_conv_transpose(weights):
    """Keras's kernel is the one of the convolution that this is the gradient of: flipped, and
    (out, in)."""
    return {**weights, "kernel": transposed_kernel(weights["kernel"])}


def transposed_kernel(kernel):
    spatial = range(kernel.ndim - 2)
    return jnp.swapaxes(jnp.flip(kernel, tuple(spatial)), -1, -2)


def keras_gru(weights):
    """Gate order z, r, h; one bias on the input's side and one on the hidden state's."""
    params = {name: swap_gates(weights[name]) for name in ("kernel", "recurrent_kernel")}
    if "bias" in weights:
        params |= gru_biases(*swap_gates(weights["bias"]))
    return params


def swap_gates(value):
    z, r, h = jnp.split(value, 3, axis=-1)
    return jnp.concatenate([r, z, h], axis=-1)


def gru_biases(bias, recurrent_bias):
    """Two biases (3 H,) of gates r, z, n: only the candidate's are not simply added up."""
    size = bias.shape[0] // 3
    gates = jnp.concatenate([recurrent_bias[: 2 * size], jnp.zeros_like(bias[:size])])
    return {"bias": bias + gates, "recurrent_bias": recurrent_bias[2 * size :]}


def both_ways(convert):
    return lambda weights: {side: convert(weights[side]) for side in ("forward", "backward")}


keras_embedding = renamed(embedding="embeddings")
keras_norm = renamed(scale="gamma", bias="beta")
keras_running = renamed(mean="moving_mean", var="moving_variance")


# Flax


def flax_conv_transpose_transposed(weights):
    return {**weights, "kernel": transposed_kernel(weights["kernel"])}


def flax_lstm(weights):
    """One dense layer for each gate and side; the bias is on the hidden state's side."""
    cell = weights["cell"]
    return {
        "kernel": _side_by_side(cell, "kernel", "ii", "if", "ig", "io"),
        "recurrent_kernel": _side_by_side(cell, "kernel", "hi", "hf", "hg", "ho"),
        "bias": _side_by_side(cell, "bias", "hi", "hf", "hg", "ho"),
    }


def flax_gru(weights):
    cell = weights["cell"]
    return {
        "kernel": _side_by_side(cell, "kernel", "ir", "iz", "in"),
        "recurrent_kernel": _side_by_side(cell, "kernel", "hr", "hz", "hn"),
        "bias": _side_by_side(cell, "bias", "ir", "iz", "in"),
        "recurrent_bias": cell["hn"]["bias"],
    }


def flax_mgu(weights):
    cell = weights["cell"]
    recurrent_bias = {"recurrent_bias": cell["hn"]["bias"]} if "bias" in cell["hn"] else {}
    return recurrent_bias | {
        "kernel": _side_by_side(cell, "kernel", "if", "in"),
        "recurrent_kernel": _side_by_side(cell, "kernel", "hf", "hn"),
        "bias": _side_by_side(cell, "bias", "if", "in"),
    }


def flax_attention(weights):
    """Theirs have an axis of heads, the queries' last but one and the output's first."""
    ours = {}
    for name, weight in weights.items():
        kernel = weight["kernel"]
        rows = kernel.shape[:-1] if name == "out" else kernel.shape[:1]
        ours[f"{name}_kernel"] = kernel.reshape(np.prod(rows), -1)
        if "bias" in weight:
            ours[f"{name}_bias"] = weight["bias"].reshape(-1)
    return ours


def flax_simple_rnn(weights):
    cell = weights["cell"]
    return {**cell["i"], "recurrent_kernel": cell["h"]["kernel"]}


def _side_by_side(cell, name, *gates):
    return jnp.concatenate([cell[gate][name] for gate in gates], axis=-1)


def flax_bidirectional(convert):
    return lambda weights: {
        side: convert(weights[f"{side}_rnn"]) for side in ("forward", "backward")
    }


# PyTorch


def torch_linear(weights):
    return {**_bias(weights), "kernel": weights["weight"].T}


def torch_conv(weights):
    """PyTorch keeps (out, in / groups, *size)."""
    return {**_bias(weights), "kernel": _channels_last(weights["weight"])}


def torch_conv_transpose(groups=1):
    """PyTorch keeps (in, out / groups, *size), flipped."""

    def convert(weights):
        kernel = jnp.concatenate(jnp.split(weights["weight"], groups), axis=1)
        spatial = tuple(range(2, kernel.ndim))
        return {
            **_bias(weights),
            "kernel": _channels_last(jnp.swapaxes(jnp.flip(kernel, spatial), 0, 1)),
        }

    return convert


def torch_transposed_padding(kernel_size, dilation=1, padding=0, output_padding=0):
    """PyTorch's ``padding`` crops the output; ours is what is put round the spread-out input."""
    rank = len(kernel_size)
    dilation, padding, output_padding = (
        value if isinstance(value, tuple) else (value,) * rank
        for value in (dilation, padding, output_padding)
    )
    return tuple(
        (d * (k - 1) - p, d * (k - 1) - p + extra)
        for k, d, p, extra in zip(kernel_size, dilation, padding, output_padding, strict=True)
    )


def _bias(weights):
    return {"bias": weights["bias"]} if "bias" in weights else {}


def _channels_last(kernel):
    return jnp.moveaxis(kernel, (0, 1), (-1, -2))


torch_embedding = renamed(embedding="weight")
torch_norm = renamed(scale="weight", bias="bias")
torch_running = renamed(mean="running_mean", var="running_var")


def torch_rnn(suffix="l0"):
    """For LSTM (gates i, f, g, o) and RNN: two biases that are added up."""

    def convert(weights):
        params = _torch_kernels(weights, suffix)
        if f"bias_ih_{suffix}" in weights:
            params["bias"] = weights[f"bias_ih_{suffix}"] + weights[f"bias_hh_{suffix}"]
        return params

    return convert


def torch_gru(suffix="l0"):
    """Gates r, z, n."""

    def convert(weights):
        params = _torch_kernels(weights, suffix)
        if f"bias_ih_{suffix}" in weights:
            params |= gru_biases(weights[f"bias_ih_{suffix}"], weights[f"bias_hh_{suffix}"])
        return params

    return convert


def _torch_kernels(weights, suffix):
    return {
        "kernel": weights[f"weight_ih_{suffix}"].T,
        "recurrent_kernel": weights[f"weight_hh_{suffix}"].T,
    }


def torch_bidirectional(convert, layer=0):
    """``convert`` is ``torch_rnn`` or ``torch_gru``."""
    forward, backward = convert(f"l{layer}"), convert(f"l{layer}_reverse")
    return lambda weights: {"forward": forward(weights), "backward": backward(weights)}
