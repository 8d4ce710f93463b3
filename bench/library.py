"""The layers of the library beside the best JAX library that has them.

Each row is a layer, an input, and other people's functions of the same parameters and input. All
results are compared before anything is timed, forward and gradient; ``peer`` is the fastest.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

from .agreement import assert_agreement
from .noise import mark, share_of_others
from .questions import Answer, Question
from .timing import time_boxed

os.environ.setdefault("KERAS_BACKEND", "jax")
Tree = Any
Function = Callable[[Tree, Any], Any]
# What a layer may take of its best peer's time: the timings of one program twice differ by 3%.
BOUND = 1.03


class Case(NamedTuple):
    """A layer with its peers.

    Args:
      layer: ours.
      x: sizes of the input, or a function that draws it.
      peers: a function that imports the libraries and gives their functions by name.
      drawn: whether the layer draws random numbers.
      compared: whether the peers compute the same; elsewhere only shapes are compared.
      gradient: whether the peers have a gradient.
    """

    layer: Callable[[], jl.Layer]
    x: tuple[int, ...] | Callable[[], Any]
    peers: Callable[[], dict[str, Function]]
    drawn: bool = False
    compared: bool = True
    gradient: bool = True


KEY = jax.random.key(3)


def linen(make: Callable[[Any], Any], **options: Any) -> Function:
    """A module of linen whose parameters have our names."""
    from flax import linen as nn

    module = make(nn)
    return lambda params, x: module.apply({"params": params} if params else {}, x, **options)


def keras(
    make: Callable[[Any], Any], convert: Callable[[Tree], list[Any]] | None = None
) -> Function:
    """A layer of Keras; ``convert`` gives its variables in order."""
    import keras as k

    layer = make(k.layers)

    def call(params: Tree, x: Any) -> Any:
        if not layer.built:
            layer.build(x.shape)
        values = [] if convert is None else convert(params)
        seeds = [v.value for v in layer.non_trainable_variables]
        return layer.stateless_call(values, seeds, x)[0]

    return call


def equinox(make: Callable[[Any], Any]) -> Function:
    """A module of Equinox without parameters, over a batch with channels first."""
    import equinox as eqx

    module = make(eqx.nn)
    return lambda params, x: jnp.moveaxis(jax.vmap(module)(jnp.moveaxis(x, -1, 1)), 1, -1)


def images(x: Any, sizes: tuple[int, ...], method: str) -> Any:
    return jax.image.resize(x, (x.shape[0], *sizes, x.shape[-1]), method, antialias=False)


def _resize() -> dict[str, Case]:
    def case(sizes: tuple[int, ...], method: str, x: tuple[int, ...], interpolation: str) -> Case:
        def peers() -> dict[str, Function]:
            import keras as k

            def by_keras(params: Tree, x: Any) -> Any:
                return k.ops.image.resize(x, sizes, interpolation=interpolation)

            found: dict[str, Function] = {"jax.image": lambda p, x: images(x, sizes, method)}
            return found | {"keras": by_keras}

        # The peers' cubic kernels are others at the edges.
        same = method != "cubic"
        return Case(lambda: jl.Resize(sizes, method=method), x, peers, compared=same)

    return {
        "resize-nearest-2x": case((64, 64), "nearest", (8, 32, 32, 64), "nearest"),
        "resize-linear-2x": case((112, 112), "linear", (4, 56, 56, 32), "bilinear"),
        "resize-linear-down": case((100, 75), "linear", (8, 224, 224, 3), "bilinear"),
        "resize-antialiased": Case(
            lambda: jl.Resize((100, 75), method="linear", antialias=True),
            (8, 224, 224, 3),
            lambda: {
                "jax.image": lambda p, x: jax.image.resize(x, (8, 100, 75, 3), "linear"),
            },
        ),
        "upsample-1d": Case(
            lambda: jl.Resize(factor=2),
            (16, 1024, 64),
            lambda: {"keras": keras(lambda layers: layers.UpSampling1D(2))},
        ),
        "resize-cubic": case((150, 150), "cubic", (4, 64, 64, 16), "bicubic"),
    }


def _pools() -> dict[str, Case]:
    def adaptive() -> dict[str, Function]:
        return {"equinox": equinox(lambda nn: nn.AdaptiveAvgPool2d((7, 7)))}

    def window(
        init: Any, function: Any, size: int, strides: int, padding: str = "VALID", dilation: int = 1
    ) -> Function:
        def call(params: Tree, x: Any) -> Any:
            return jax.lax.reduce_window(
                x,
                init,
                function,
                (1, size, size, 1),
                (1, strides, strides, 1),
                padding,
                window_dilation=(1, dilation, dilation, 1),
            )

        return call

    def flax_pool(name: str, size: int, strides: int) -> Function:
        from flax import linen as nn

        return lambda p, x: getattr(nn, name)(x, (size, size), (strides, strides))

    return {
        "pool-min-3x3-s2": Case(
            lambda: jl.MinPool(3, strides=2),
            (8, 56, 56, 64),
            lambda: {
                "linen": lambda p, x: -flax_pool("max_pool", 3, 2)(p, -x),
                "equinox": equinox(
                    lambda nn: nn.Pool(jnp.inf, jax.lax.min, 2, kernel_size=3, stride=2)
                ),
            },
        ),
        "pool-sum-3x3-s2": Case(
            lambda: jl.SumPool(3, strides=2),
            (8, 56, 56, 64),
            lambda: {"lax": window(0.0, jax.lax.add, 3, 2)},
        ),
        "pool-max-dilated": Case(
            lambda: jl.MaxPool(3, strides=1, dilation=2),
            (8, 28, 28, 64),
            lambda: {"lax": window(-jnp.inf, jax.lax.max, 3, 1, dilation=2)},
            gradient=False,
        ),
        "pool-avg-ceil": Case(
            lambda: jl.AvgPool(2, ceil_mode=True),
            (8, 55, 55, 64),
            lambda: {
                "linen": lambda p, x: flax_same_avg(x),
            },
        ),
        "pool-avg-counts-padding": Case(
            lambda: jl.AvgPool(3, strides=1, padding="SAME", count_include_pad=True),
            (8, 56, 56, 64),
            lambda: {"linen": lambda p, x: flax_padded_avg(x)},
        ),
        # Equinox has other windows where the sizes do not divide.
        "pool-adaptive-7x7": Case(
            lambda: jl.AdaptiveAvgPool(7), (8, 30, 30, 64), adaptive, compared=False
        ),
        "pool-adaptive-divisible": Case(lambda: jl.AdaptiveAvgPool(7), (8, 56, 56, 64), adaptive),
    }


def flax_padded_avg(x: Any) -> Any:
    from flax import linen as nn

    return nn.avg_pool(x, (3, 3), (1, 1), "SAME")


def flax_same_avg(x: Any) -> Any:
    from flax import linen as nn

    return nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)


def _convolutions() -> dict[str, Case]:
    def conv(padding: str) -> Case:
        return Case(
            lambda: jl.Conv(64, 3, padding=padding),
            (8, 28, 28, 64),
            lambda: {"linen": linen(lambda nn: nn.Conv(64, (3, 3), padding=padding))},
        )

    def local() -> dict[str, Function]:
        call = linen(lambda nn: nn.ConvLocal(16, (3, 3), padding="VALID"))

        def with_patches(params: Tree, x: Any) -> Any:
            kernel = jnp.moveaxis(params["kernel"], 4, 2)
            flat = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
            return call({"kernel": flat, "bias": params["bias"]}, x)

        return {"linen": with_patches}

    def patches(params: Tree, x: Any) -> Any:
        return jax.lax.conv_general_dilated_patches(
            x, (3, 3), (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return {
        "conv-reflect": conv("REFLECT"),
        "conv-circular": conv("CIRCULAR"),
        "conv-local": Case(
            lambda: jl.LocalConv(16, 3),
            (16, 14, 14, 32),
            local,
        ),
        "unfold-3x3-s2": Case(
            lambda: jl.Unfold(3, strides=2), (8, 56, 56, 16), lambda: {"lax": patches}
        ),
    }


def _norms() -> dict[str, Case]:
    return {
        "layer-norm-axes": Case(
            lambda: jl.LayerNorm(axis=(1, 2, 3), feature_axes=-1, epsilon=1e-6),
            (8, 28, 28, 64),
            lambda: {"linen": linen(lambda nn: nn.LayerNorm(reduction_axes=(1, 2, 3)))},
        ),
        "instance-norm": Case(
            lambda: jl.InstanceNorm(epsilon=1e-6),
            (8, 28, 28, 64),
            lambda: {"linen": linen(lambda nn: nn.InstanceNorm())},
        ),
        "unit-norm": Case(
            lambda: jl.UnitNorm(),
            (64, 128, 256),
            lambda: {"keras": keras(lambda layers: layers.UnitNormalization())},
        ),
    }


def _linear() -> dict[str, Case]:
    return {
        "dense-axes": Case(
            lambda: jl.Dense((8, 64)),
            (8, 128, 512),
            lambda: {
                "linen": linen(lambda nn: nn.DenseGeneral((8, 64))),
                "keras": keras(
                    lambda layers: layers.EinsumDense(
                        "abc,cde->abde", (None, 8, 64), bias_axes="de"
                    ),
                    lambda params: [params["kernel"], params["bias"]],
                ),
            },
        ),
        "einsum": Case(
            lambda: jl.Einsum("...hd,hdk->...hk", k=64, bias_axes="hk"),
            (8, 128, 8, 64),
            lambda: {"linen": linen(lambda nn: nn.Einsum((8, 64, 64), "...hd,hdk->...hk"))},
        ),
        "prelu": Case(
            lambda: jl.PReLU(),
            (64, 56, 56, 16),
            lambda: {
                "linen": lambda p, x: _prelu()(
                    {"negative_slope": p["slope"]},
                    x,
                )
            },
        ),
    }


def _prelu() -> Function:
    return linen(lambda nn: nn.PReLU())


def _random() -> dict[str, Case]:
    def peer(make: Callable[[Any], Any]) -> Callable[[], dict[str, Function]]:
        def build() -> dict[str, Function]:
            import keras as k

            layer = make(k.layers)
            layer.build(shape)
            seed = jax.random.key_data(KEY).astype("uint32")

            def call(params: Tree, x: Any) -> Any:
                values = [(layer.seed_generator.state.value * 0 + seed)]
                return layer.stateless_call([], values, x, training=True)[0]

            return {"keras": call}

        return build

    shape = (32, 56, 56, 32)
    return {
        "spatial-dropout": Case(
            lambda: jl.SpatialDropout(0.3),
            shape,
            peer(lambda la: la.SpatialDropout2D(0.3)),
            True,
            False,
        ),
        "alpha-dropout": Case(
            lambda: jl.AlphaDropout(0.3), shape, peer(lambda la: la.AlphaDropout(0.3)), True, False
        ),
        "gaussian-dropout": Case(
            lambda: jl.GaussianDropout(0.3),
            shape,
            peer(lambda la: la.GaussianDropout(0.3)),
            True,
            False,
        ),
        "gaussian-noise": Case(
            lambda: jl.GaussianNoise(0.3),
            shape,
            peer(lambda la: la.GaussianNoise(0.3)),
            True,
            False,
        ),
    }


def _recurrent() -> dict[str, Case]:
    def mgu() -> dict[str, Function]:
        from flax import linen as nn

        module = nn.RNN(nn.MGUCell(128))
        gates = ("if", "in", "hf", "hn")
        x = jnp.zeros((32, 64, 64))
        shapes = jax.eval_shape(module.init, KEY, x)["params"]["cell"]
        assert set(shapes) == set(gates)

        def call(params: Tree, x: Any) -> Any:
            kernels = jnp.split(params["kernel"], 2, 1) + jnp.split(
                params["recurrent_kernel"], 2, 1
            )
            cell = {name: {"kernel": kernel} for name, kernel in zip(gates, kernels, strict=True)}
            for name, leaf in zip(("if", "in"), jnp.split(params["bias"], 2), strict=True):
                cell[name]["bias"] = leaf
            if "bias" in shapes["hn"]:
                cell["hn"]["bias"] = params["recurrent_bias"]
            return module.apply({"params": {"cell": cell}}, x)

        return {"linen": call}

    def scanned() -> dict[str, Function]:
        def call(params: Tree, x: Any) -> Any:
            """The same recurrence by a scan over steps, as one writes it."""
            u = x @ params["kernel"] + params["bias"]
            gate, new = jnp.split(u, 2, -1)

            def step(h: Any, both: Any) -> Any:
                z, n = both
                h = (1 - z) * h + z * n
                return h, h

            given = (jnp.swapaxes(jax.nn.sigmoid(gate), 0, 1), jnp.swapaxes(new, 0, 1))
            _, y = jax.lax.scan(step, jnp.zeros((x.shape[0], u.shape[-1] // 2)), given)
            return jnp.swapaxes(y, 0, 1)

        return {"by hand": call}

    return {
        "mgu": Case(lambda: jl.MGU(128), (32, 64, 64), mgu),
        "min-gru": Case(lambda: jl.MinGRU(128), (16, 256, 64), scanned),
    }


def _steps(step: Callable[[Any, Any], Any], carry: Any, *inputs: Any) -> Any:
    """The outputs (batch, time, ...) of a scan over such inputs."""
    _, y = jax.lax.scan(step, carry, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), inputs))
    return jnp.swapaxes(y, 0, 1)


def _scans() -> dict[str, Case]:
    """Layers of which no library has one: the scan over steps that one writes by hand."""

    def by_hand(layer: Callable[[], jl.Layer], x: tuple[int, ...], call: Function) -> Case:
        return Case(layer, x, lambda: {"by hand": call})

    def ind_rnn(p: Tree, x: Any) -> Any:
        def step(h: Any, at: Any) -> Any:
            h = jax.nn.relu(at[0] + p["recurrent_scale"] * h)
            return h, h

        u = x @ p["kernel"] + p["bias"]
        return _steps(step, jnp.zeros_like(u[:, 0]), u)

    def sru(p: Tree, x: Any) -> Any:
        n, f, r = jnp.split(x @ p["kernel"], 3, -1)
        f, r = (v + b for v, b in zip((f, r), jnp.split(p["bias"], 2), strict=True))

        def step(c: Any, at: Any) -> Any:
            n, f, r, x = at
            f, r = jax.nn.sigmoid(f), jax.nn.sigmoid(r)
            c = f * c + (1 - f) * n
            return c, r * c + (1 - r) * x

        return _steps(step, jnp.zeros_like(n[:, 0]), n, f, r, x)

    def qrnn(p: Tree, x: Any) -> Any:
        padded = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))
        steps = (padded[:, :-1] @ p["kernel"][0], padded[:, 1:] @ p["kernel"][1], p["bias"])
        z, f, o = jnp.split(sum(steps), 3, -1)

        def step(c: Any, at: Any) -> Any:
            z, f, o = at
            f = jax.nn.sigmoid(f)
            c = f * c + (1 - f) * jnp.tanh(z)
            return c, jax.nn.sigmoid(o) * c

        return _steps(step, jnp.zeros_like(z[:, 0]), z, f, o)

    def rg_lru(p: Tree, x: Any) -> Any:
        u = x @ p["kernel"] + p["bias"]
        r, i = jnp.split(jax.nn.sigmoid(u @ p["gate_kernel"] + p["gate_bias"]), 2, -1)
        log_a = 8 * r * jax.nn.log_sigmoid(p["decay"])

        def step(h: Any, at: Any) -> Any:
            log_a, b = at
            h = jnp.exp(log_a) * h + jnp.sqrt(-jnp.expm1(2 * log_a)) * b
            return h, h

        return _steps(step, jnp.zeros_like(u[:, 0]), log_a, i * u)

    def selective(p: Tree, x: Any) -> Any:
        rank, state = p["step_kernel"].shape[0], p["log_decay"].shape[1]
        r, b, c = jnp.split(x @ p["select_kernel"], [rank, rank + state], -1)
        d = jax.nn.softplus(r @ p["step_kernel"] + p["step_bias"])
        rates = -jnp.exp(p["log_decay"])

        def step(s: Any, at: Any) -> Any:
            d, b, c, x = at
            s = jnp.exp(d[..., None] * rates) * s + (d * x)[..., None] * b[:, None]
            return s, jnp.einsum("bdn,bn->bd", s, c)

        y = _steps(step, jnp.zeros((x.shape[0], *rates.shape)), d, b, c, x)
        return y + p["skip"] * x

    def heads(values: Any, count: int) -> Any:
        return values.reshape(*values.shape[:-1], count, -1)

    def linear_attention(p: Tree, x: Any) -> Any:
        q, k, v = (
            heads(x @ p[f"{name}_kernel"] + p[f"{name}_bias"], 4)
            for name in ("query", "key", "value")
        )
        q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1

        def step(state: Any, at: Any) -> Any:
            (s, z), (q, k, v) = state, at
            s, z = s + k[..., None] * v[..., None, :], z + k
            y = jnp.einsum("bhk,bhkv->bhv", q, s)
            return (s, z), y / (jnp.einsum("bhk,bhk->bh", q, z)[..., None] + 1e-6)

        size = q.shape[-1]
        zeros = jnp.zeros((x.shape[0], 4, size, size)), jnp.zeros((x.shape[0], 4, size))
        y = _steps(step, zeros, q, k, v)
        return y.reshape(x.shape) @ p["out_kernel"] + p["out_bias"]

    def mlstm(p: Tree, x: Any) -> Any:
        q, k, v, o = jnp.split(x @ p["kernel"] + p["bias"], 4, -1)
        q, k, v = (heads(part, 4) for part in (q, k, v))
        k = k / np.sqrt(k.shape[-1])
        i, f = jnp.split(x @ p["gate_kernel"] + p["gate_bias"], 2, -1)

        def step(state: Any, at: Any) -> Any:
            (c, n, m), (q, k, v, i, f) = state, at
            log_f = jax.nn.log_sigmoid(f)
            new = jnp.maximum(log_f + m, i)
            keep, write = jnp.exp(log_f + m - new), jnp.exp(i - new)
            c = keep[..., None, None] * c + write[..., None, None] * k[..., None] * v[..., None, :]
            n = keep[..., None] * n + write[..., None] * k
            least = jnp.maximum(jnp.abs(jnp.sum(q * n, -1)), jnp.exp(-new))
            return (c, n, new), jnp.einsum("bhk,bhkv->bhv", q, c) / least[..., None]

        rows, size = (x.shape[0], 4), q.shape[-1]
        zeros = jnp.zeros((*rows, size, size)), jnp.zeros((*rows, size)), jnp.zeros(rows)
        return jax.nn.sigmoid(o) * _steps(step, zeros, q, k, v, i, f).reshape(o.shape)

    def gated_delta(p: Tree, x: Any) -> Any:
        q, k, v = (heads(part, 4) for part in jnp.split(x @ p["kernel"], 3, -1))
        q, k = (a * jax.lax.rsqrt(jnp.sum(a * a, -1, keepdims=True) + 1e-6) for a in (q, k))
        b = jax.nn.sigmoid(x @ p["write_kernel"])
        a = jax.nn.softplus(x @ p["decay_kernel"] + p["step_bias"])
        a = jnp.exp(-jnp.exp(p["log_decay"]) * a)

        def step(s: Any, at: Any) -> Any:
            q, k, v, a, b = at
            s = a[..., None, None] * s
            u = b[..., None] * (v - jnp.einsum("bhk,bhkv->bhv", k, s))
            s = s + k[..., None] * u[..., None, :]
            return s, jnp.einsum("bhk,bhkv->bhv", q, s)

        size = q.shape[-1]
        y = _steps(step, jnp.zeros((x.shape[0], 4, size, size)), q / np.sqrt(size), k, v, a, b)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * p["scale"]
        return (y.reshape(x.shape) * jax.nn.silu(x @ p["gate_kernel"])) @ p["out_kernel"]

    return {
        "ind-rnn": by_hand(lambda: jl.IndRNN(128), (16, 128, 64), ind_rnn),
        "sru": by_hand(lambda: jl.SRU(128, peephole=False), (16, 128, 128), sru),
        "qrnn": by_hand(lambda: jl.QRNN(128, 2), (16, 128, 64), qrnn),
        "linear-recurrence": by_hand(lambda: jl.LinearRecurrence(128), (16, 128, 64), rg_lru),
        "selective-ssm": by_hand(lambda: jl.SelectiveSSM(16), (4, 128, 64), selective),
        "linear-attention": by_hand(lambda: jl.LinearAttention(4), (4, 128, 64), linear_attention),
        "mlstm": by_hand(lambda: jl.MLSTM(64, 4), (4, 128, 64), mlstm),
        "gated-delta": by_hand(
            lambda: jl.GatedDeltaNet(4, kernel_size=None), (4, 128, 64), gated_delta
        ),
    }


def _image_recurrences() -> dict[str, Case]:
    shape = (4, 8, 16, 16, 8)

    def conv_lstm() -> dict[str, Function]:
        found = keras(
            lambda layers: layers.ConvLSTM2D(
                8, 3, padding="same", recurrent_activation="sigmoid", return_sequences=True
            ),
            lambda p: [p["kernel"], p["recurrent_kernel"], p["bias"]],
        )
        from flax import linen as nn

        module = nn.RNN(nn.ConvLSTMCell(8, (3, 3)))

        def by_linen(p: Tree, x: Any) -> Any:
            # Its gates are i, g, f, o, and one is added to f.
            def order(values: Any) -> Any:
                i, f, g, o = jnp.split(values, 4, -1)
                return jnp.concatenate([i, g, f, o], -1)

            i, f, g, o = jnp.split(p["bias"], 4)
            bias = jnp.concatenate([i, g, f - 1, o])
            cell = {
                "ih": {"kernel": order(p["kernel"]), "bias": bias},
                "hh": {"kernel": order(p["recurrent_kernel"]), "bias": jnp.zeros_like(bias)},
            }
            return module.apply({"params": {"cell": cell}}, x)

        return {"keras": found, "linen": by_linen}

    def conv_gru(p: Tree, x: Any) -> Any:
        def conv(values: Any, kernel: Any) -> Any:
            return jax.lax.conv_general_dilated(
                values, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        gates, candidate = jnp.split(p["recurrent_kernel"], [16], -1)

        def step(h: Any, at: Any) -> Any:
            xr, xz, xn = jnp.split(conv(at[0], p["kernel"]) + p["bias"], 3, -1)
            hr, hz = jnp.split(conv(h, gates), 2, -1)
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            n = jnp.tanh(xn + r * (conv(h, candidate) + p["recurrent_bias"]))
            h = (1 - z) * n + z * h
            return h, h

        return _steps(step, jnp.zeros_like(x[:, 0]), x)

    return {
        "conv-lstm": Case(lambda: jl.ConvLSTM(8, 3), shape, conv_lstm),
        "conv-gru": Case(lambda: jl.ConvGRU(8, 3), shape, lambda: {"by hand": conv_gru}),
    }


def _attention() -> dict[str, Case]:
    def pair() -> Any:
        return tuple(jax.random.normal(jax.random.key(i), (4, 128, 64)) for i in (0, 1))

    def keras_layer(make: Callable[[Any], Any], convert: Callable[[Tree], list[Any]]) -> Function:
        """A layer of Keras of (query, value) by a list, or by two arguments."""
        import keras as k

        layer = make(k.layers)

        def call(p: Tree, x: Any) -> Any:
            q, v = x if isinstance(x, tuple) else (x, x)
            given = ([q, v],) if isinstance(layer, k.layers.AdditiveAttention) else (q, v)
            if not layer.built:
                layer.build(*([[q.shape, v.shape]] if len(given) == 1 else [q.shape, v.shape]))
            seeds = [v.value for v in layer.non_trainable_variables]
            return layer.stateless_call(convert(p), seeds, *given)[0]

        return call

    def additive() -> dict[str, Function]:
        return {"keras": keras_layer(lambda la: la.AdditiveAttention(), lambda p: [p["scale"]])}

    def projections(p: Tree) -> list[Any]:
        found = []
        for name, count in (("query", 4), ("key", 2), ("value", 2)):
            kernel = p[f"{name}_kernel"]
            bias = p.get(f"{name}_bias", jnp.zeros(kernel.shape[1]))
            found += [kernel.reshape(kernel.shape[0], count, -1), bias.reshape(count, -1)]
        return [*found, p["out_kernel"].reshape(4, -1, 64), p["out_bias"]]

    def grouped() -> dict[str, Function]:
        return {"keras": keras_layer(lambda la: la.GroupQueryAttention(16, 4, 2), projections)}

    def cross() -> dict[str, Function]:
        from flax import linen as nn

        module = nn.MultiHeadDotProductAttention(4)

        def call(p: Tree, x: Any) -> Any:
            def split(name: str) -> dict[str, Any]:
                kernel = p[f"{name}_kernel"]
                bias = p.get(f"{name}_bias", jnp.zeros(kernel.shape[1]))
                return {"kernel": kernel.reshape(-1, 4, 16), "bias": bias.reshape(4, 16)}

            found: Tree = {name: split(name) for name in ("query", "key", "value")}
            found["out"] = {"kernel": p["out_kernel"].reshape(4, 16, 64), "bias": p["out_bias"]}
            return module.apply({"params": found}, x[0], x[1])

        return {"linen": call}

    # The gradient of a bias of keys is zero, up to rounding: there is nothing to compare.
    biases = ("query", "value", "out")
    return {
        "additive-attention": Case(jl.AdditiveAttention, pair, additive),
        "grouped-query-attention": Case(
            lambda: jl.SelfAttention(4, num_kv_heads=2, bias=biases), (4, 128, 64), grouped
        ),
        "cross-attention": Case(lambda: jl.CrossAttention(4, bias=biases), pair, cross),
    }


def _signal() -> dict[str, Case]:
    def stft() -> dict[str, Function]:
        window = np.hanning(513)[:-1].astype("float32")

        def call(params: Tree, x: Any) -> Any:
            _, _, z = jax.scipy.signal.stft(
                x, nperseg=512, noverlap=384, window=window, boundary=None, padded=False
            )
            return jnp.abs(jnp.swapaxes(z, -1, -2)) * window.sum()

        return {"jax.scipy": call}

    return {"stft": Case(lambda: jl.serial(jl.STFT(512, strides=128), jnp.abs), (8, 16000), stft)}


TABLES = (
    _resize,
    _pools,
    _convolutions,
    _norms,
    _linear,
    _random,
    _recurrent,
    _scans,
    _image_recurrences,
    _attention,
    _signal,
)


def answer(name: str, case: Case, gradient: bool, budget: float, rounds: int) -> Answer:
    """Our time over that of the fastest peer."""
    layer, peers = case.layer(), case.peers()
    shape = case.x
    x = shape() if callable(shape) else jax.random.normal(jax.random.key(1), shape)
    params, state = layer.init(jax.random.key(0), x)

    def ours(params: Tree, x: Any) -> Any:
        y, _ = layer.apply(params, state, x, key=KEY if case.drawn else None, train=case.drawn)
        return y

    # Drawn before: in the program, drawing it took up to ten times the gradient of a pool.
    out = jax.eval_shape(ours, params, x)
    ct = jax.random.normal(jax.random.key(2), out.shape, out.dtype) if gradient else None

    def program(function: Function) -> Callable[[Tree, Any, Any], Any]:
        if not gradient:
            return jax.jit(lambda params, x, _: function(params, x))

        def loss(params: Tree, x: Any, ct: Any) -> Any:
            return jnp.vdot(function(params, x), ct)

        return jax.jit(jax.grad(loss, (0, 1)))

    programs = {name: program(function) for name, function in ({"jlayers": ours} | peers).items()}
    results = {name: run(params, x, ct) for name, run in programs.items()}
    for result in results.values():
        if case.compared:
            assert_agreement(results["jlayers"], result)
        else:
            assert jax.tree.map(jnp.shape, result) == jax.tree.map(jnp.shape, results["jlayers"])
    calls = {
        name: functools.partial(lambda run: jax.block_until_ready(run(params, x, ct)), run)
        for name, run in programs.items()
    }
    start = mark()
    timings = time_boxed(calls, budget, rounds)
    others = share_of_others(start)
    best = min((timings[peer].median, peer) for peer in peers)
    ratio = timings["jlayers"].median / best[0]
    mode = "gradient" if gradient else "forward"
    texts = ", ".join(f"{name} {1e3 * timing.median:.3g} ms" for name, timing in timings.items())
    return Answer(
        f"{name}, {mode}",
        f"{1 / ratio:.2f}x of {best[1]} ({texts})",
        f"{1 / BOUND:.2f}x",
        ratio <= BOUND,
        {name: timing._asdict() for name, timing in timings.items()},
        others,
    )


def _rows() -> Iterator[tuple[str, Question]]:
    for table in TABLES:
        for name, case in table().items():
            for gradient in (False, True)[: 1 + case.gradient]:
                row = f"library-{name}" + ("-gradient" if gradient else "")
                yield row, functools.partial(answer, name, case, gradient)


ROWS: dict[str, Question] = dict(_rows())
