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
        return layer.stateless_call(values, [], x)[0]

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


TABLES = (_resize, _pools, _convolutions, _norms, _linear, _random, _recurrent, _signal)


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
