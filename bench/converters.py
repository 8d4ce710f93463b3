"""Which of 27 small models other tools convert: as they are, by ``jl.plain``, from ONNX files.

As they are, plain (``jl.plain(model)``), basic (``jl.plain(model, basic=True)``), and, for
OpenVINO, from what ``jl.export.onnx`` writes.

``python -m bench.converters``; with jax2onnx, onnxruntime and openvino installed, which no other
part of the project needs. A model counts where the converted one gives the numbers of
``model.apply``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import logging
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

import jlayers as jl

VECTOR, STEPS = (2, 8), (2, 6, 8)
IMAGE = (2, 8, 8, 4)


def _ids(*shape: int) -> jax.ShapeDtypeStruct:
    return jl.spec(shape, jnp.int32)


def _block(causal: bool = False) -> jl.Layer:
    return jl.TransformerBlock(
        jl.SelfAttention(2, causal=causal), jl.serial(jl.Dense(16), jax.nn.gelu, jl.Dense(8))
    )


def _unet() -> jl.Layer:
    def body(f, x):
        first = jax.nn.relu(f.down(x))
        inner = jax.nn.relu(f.inner(f.pool(first)))
        return f.head(jnp.concatenate([first, f.up(inner)], axis=-1))

    return jl.compose(
        body,
        down=jl.Conv(4, 3, padding="SAME"),
        pool=jl.MaxPool(2),
        inner=jl.Conv(8, 3, padding="SAME"),
        up=jl.ConvTranspose(4, 2, strides=2),
        head=jl.Conv(2, 1),
    )


def _residual(features: int) -> jl.Layer:
    return jl.residual(
        jl.serial(
            jl.Conv(features, 3, padding="SAME", bias=False),
            jl.BatchNorm(),
            jax.nn.relu,
            jl.Conv(features, 3, padding="SAME"),
        )
    )


MODELS = {
    "mlp": (jl.serial(jl.Dense(16), jax.nn.relu, jl.Dense(3)), VECTOR),
    "mlp of other activations": (
        jl.serial(jl.Dense(8), jax.nn.silu, jl.Dense(8), jax.nn.softplus, jax.nn.softmax),
        VECTOR,
    ),
    "convolutions": (
        jl.serial(jl.Conv(8, 3), jax.nn.relu, jl.MaxPool(2), jl.Flatten(), jl.Dense(3)),
        IMAGE,
    ),
    "depthwise": (
        jl.serial(jl.Conv(4, 3, groups=4, padding="SAME"), jax.nn.relu6, jl.Conv(8, 1)),
        IMAGE,
    ),
    "strided, dilated": (
        jl.serial(jl.Conv(8, 3, strides=2, padding="SAME"), jl.Conv(4, 2, dilation=2)),
        IMAGE,
    ),
    "transposed": (jl.ConvTranspose(3, 3, strides=2, padding="SAME"), IMAGE),
    "pools": (
        jl.serial(jl.AvgPool(3, strides=1, padding="SAME"), jl.MaxPool(2), jl.GlobalAvgPool()),
        IMAGE,
    ),
    "causal convolutions": (
        jl.serial(*[jl.Conv(8, 3, padding="CAUSAL", dilation=2**i) for i in range(2)]),
        STEPS,
    ),
    "batch norm": (jl.serial(jl.Conv(4, 3), jl.BatchNorm(), jax.nn.relu), IMAGE),
    "layer norm": (jl.serial(jl.LayerNorm(), jl.Dense(3)), STEPS),
    "group norm": (jl.serial(jl.GroupNorm(2), jax.nn.silu), IMAGE),
    "rms norm": (jl.serial(jl.RMSNorm(), jl.Dense(3)), STEPS),
    "prelu, glu": (
        jl.serial(jl.PReLU(), jl.multiply(jl.Dense(8), jl.serial(jl.Dense(8), jax.nn.sigmoid))),
        STEPS,
    ),
    "dropout": (jl.serial(jl.Dense(8), jl.Dropout(0.5), jl.Dense(3)), VECTOR),
    "embedding": (jl.serial(jl.Embedding(11, 8), jl.GlobalAvgPool(), jl.Dense(3)), _ids(2, 6)),
    "resize": (jl.Resize(factor=2, method="linear"), IMAGE),
    "residual network": (jl.serial(_residual(4), _residual(4), jl.GlobalAvgPool()), IMAGE),
    "u-net": (_unet(), IMAGE),
    "simple rnn": (jl.serial(jl.SimpleRNN(4), jl.Dense(3)), STEPS),
    "lstm": (jl.serial(jl.LSTM(4), jl.Dense(3)), STEPS),
    "gru, both directions": (jl.serial(jl.bidirectional(jl.GRU(4)), jl.Dense(3)), STEPS),
    "self-attention": (jl.SelfAttention(2), STEPS),
    "transformer": (jl.serial(_block(), _block(), jl.LayerNorm()), STEPS),
    "language model": (
        jl.serial(jl.Embedding(11, 8), jl.PositionEmbedding(6), _block(True), jl.Dense(11)),
        _ids(2, 6),
    ),
    "blocks by repeat": (jl.repeat(_block(True), 2), STEPS),
    "experts": (
        jl.MixtureOfExperts(jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(8)), 3),
        STEPS,
    ),
    "state space": (jl.serial(jl.Mamba(2, kernel_size=2), jl.Dense(3)), STEPS),
}


def by_jax2onnx(function, x, _):
    import jax2onnx

    try:
        return _in_onnxruntime(jax2onnx.to_onnx(function, [x]))
    except Exception:
        # It replaces functions of jnp while it traces, some by ones that take fewer arguments, or
        # that onnxruntime lacks.
        closed = jax.make_jaxpr(function)(jnp.zeros(x.shape, x.dtype))
        return _in_onnxruntime(jax2onnx.to_onnx(lambda x: jaxpr_as_fun(closed)(x)[0], [x]))


def _in_onnxruntime(proto):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda value: session.run(None, {session.get_inputs()[0].name: value})[0]


def by_openvino(function, x, _):
    return _in_openvino(jax.make_jaxpr(function)(jnp.zeros(x.shape, x.dtype)))


def by_openvino_from_onnx(_, x, given):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        jl.export.onnx(*given, x, path)
        return _in_openvino(path)


def _in_openvino(source):
    import openvino

    # By default on CPU it may compute in bfloat16.
    model = openvino.compile_model(
        openvino.convert_model(source), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda value: next(iter(model([value]).values()))


def outcome(convert, model, x) -> str:
    """An empty text where it converts to the same numbers, and otherwise why not."""
    x = x if isinstance(x, jax.ShapeDtypeStruct) else jl.spec(x)
    params, state = model.init(jax.random.key(0), x)
    rng = np.random.default_rng(0)
    integers = jnp.issubdtype(x.dtype, jnp.integer)
    value = rng.integers(0, 9, x.shape) if integers else rng.normal(size=x.shape)
    value = value.astype(x.dtype)

    def function(x):
        return model.apply(params, state, x)[0]

    wanted = np.asarray(function(value))
    try:
        got = convert(function, x, (model, params, state))(value)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if got.shape != wanted.shape:
        return f"gives {got.shape} instead of {wanted.shape}"
    error = float(np.abs(got - wanted).max())
    return "" if error < 1e-4 * max(1.0, np.abs(wanted).max()) else f"differs by {error:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="a part of the names of models")
    parser.add_argument("--plain", action="store_true", help="not as they are")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    for name, (model, x) in MODELS.items():
        if options.only not in name:
            continue
        forms = {} if options.plain else {"as it is": model}
        forms["plain"] = jl.plain(model)
        forms["basic"] = jl.plain(model, basic=True)
        for tool, convert in (("jax2onnx", by_jax2onnx), ("openvino", by_openvino)):
            for form, changed in forms.items():
                with contextlib.redirect_stderr(io.StringIO()):
                    why = outcome(convert, changed, x)
                counts[f"{tool} {form}"] += not why
                if why and form != "as it is":
                    print(f"{name}: {tool}, {form}: {why}", flush=True)
        why = outcome(by_openvino_from_onnx, model, x)
        counts["openvino from export.onnx"] += not why
        if why:
            print(f"{name}: openvino from export.onnx: {why}", flush=True)
    print(f"of {len(MODELS)}: " + ", ".join(f"{key}: {n}" for key, n in counts.items()))


if __name__ == "__main__":
    main()
