"""silero-vad 6.2.3: whether there is speech, in chunks of 32 ms, from the files of the package.

``vad`` is the network, ``load`` takes its weights from a file. ``results`` runs them beside the
runtime that the file is for, over a whole recording at once and chunk by chunk.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file

import jlayers as jl

from .speech import speech
from .wheels import Result, largest_difference, path


def magnitude(x: jax.Array) -> jax.Array:
    """Of real parts followed by imaginary parts."""
    real, imaginary = jnp.split(x, 2, axis=-1)
    return jnp.sqrt(real**2 + imaginary**2)


def vad(rate: int) -> jl.Layer:
    """(batch, samples, 1) to (batch, chunks, 1), the probability of speech in each chunk."""
    hop = rate // 125
    # The end of a chunk is seen again in front of the next one.
    chunks = jl.Frame(4 * hop + hop // 2, strides=4 * hop, padding=(hop // 2, 0))
    end = {"padding": ((0, hop // 2),), "padding_mode": "reflect", "bias": False}
    encoder = jl.serial(
        *(jl.Conv(2 * hop + 2, 2 * hop, strides=hop, **end), magnitude),
        *(jl.Conv(128, 3, padding=1), jax.nn.relu),
        *(jl.Conv(64, 3, strides=2, padding=1), jax.nn.relu),
        *(jl.Conv(64, 3, strides=2, padding=1), jax.nn.relu),
        *(jl.Conv(128, 3, padding=1), jax.nn.relu, jl.Flatten()),
    )
    head = jl.serial(jax.nn.relu, jl.Conv(1, 1), jax.nn.sigmoid)
    return jl.serial(chunks, encoder=jl.each_step(encoder), lstm=jl.LSTM(128), head=head)


def load(file: str, rate: int, rules: Sequence[str]) -> tuple[jl.Layer, dict, dict]:
    """The network, its parameters and its state from a file of the package."""
    arrays, model = jl.interop.read(path("silero_vad", f"data/{file}")), vad(rate)
    return model, *jl.interop.match(model, jl.spec((1, rate, 1)), arrays, rules=rules).load()


def by_torch(file: str, rate: int) -> Callable[[np.ndarray], np.ndarray]:
    """TorchScript, chunk by chunk; with the weights of the safetensors file, if it is that one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        script = torch.jit.load(path("silero_vad", "data/silero_vad.jit"))
    if file.endswith("safetensors"):
        names = script._model.state_dict()
        given = load_file(path("silero_vad", f"data/{file}"))
        script._model.load_state_dict(dict(zip(names, given.values(), strict=True)))

    def run(x: np.ndarray) -> np.ndarray:
        script.reset_states()
        chunks = torch.from_numpy(x).split(4 * rate // 125)
        return np.array([script(chunk[None], rate).item() for chunk in chunks])

    return run


def by_onnxruntime(file: str, rate: int) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file, chunk by chunk with its state, or at once where the file takes all chunks."""
    session = onnxruntime.InferenceSession(
        path("silero_vad", f"data/{file}"), providers=["CPUExecutionProvider"]
    )
    names = {given.name for given in session.get_inputs()}
    chunk, context = 4 * rate // 125, rate // 250

    def run(x: np.ndarray) -> np.ndarray:
        state, found = np.zeros((2, 1, 128), "float32"), []
        before = np.pad(x, (context, 0))
        windows = np.stack([before[i : i + chunk + context] for i in range(0, len(x), chunk)])
        if "h" in names:
            return session.run(None, {"input": windows, "h": state[:1], "c": state[1:]})[0]
        sample_rate = {"sr": np.array(rate)} if "sr" in names else {}
        for window in windows:
            y, state = session.run(None, {"input": window[None], "state": state, **sample_rate})
            found.append(y.item())
        return np.array(found)

    return run


BASIS = "stft.forward_basis_buffer -> stft.weight"
SCRIPT = ("_state ->", "_context ->")
FILES = (
    ("silero_vad.jit", 16000, by_torch, (*SCRIPT, "_model_8k ->", "_model.* -> *", BASIS)),
    ("silero_vad.jit", 8000, by_torch, (*SCRIPT, "_model ->", "_model_8k.* -> *", BASIS)),
    ("silero_vad.onnx", 16000, by_onnxruntime, ("If_0_else_branch__Inline_0__* ->",)),
    ("silero_vad.onnx", 8000, by_onnxruntime, ("If_0_then_branch__Inline_0__* ->",)),
    ("silero_vad_openvino_16k.onnx", 16000, by_onnxruntime, ()),
    ("silero_vad_16k_op15.onnx", 16000, by_onnxruntime, ()),
    ("silero_vad_16k_sequence.onnx", 16000, by_onnxruntime, ()),
    ("silero_vad_half.onnx", 16000, by_onnxruntime, ()),
    ("silero_vad_16k.safetensors", 16000, by_torch, ()),
)


def results(seconds: float = 4.0) -> Iterator[Result]:
    """Each file beside its runtime, on sound like speech."""
    for file, rate, runtime, rules in FILES:
        chunk = 4 * rate // 125
        x = speech(seconds, rate)
        x = x[: len(x) // chunk * chunk]
        model, params, state = load(file, rate, rules)
        ours = np.ravel(jax.jit(model.apply)(params, state, x[None, :, None])[0])
        start, step = jl.stream(model)
        step, carry, streamed = jax.jit(step), start(params, state, jl.spec((1, chunk, 1))), []
        for block in x.reshape(-1, 1, chunk, 1):
            y, carry = step(params, state, carry, block)
            streamed.append(y.item())
        yield Result(
            f"silero-vad, {file}, {rate // 1000} kHz",
            runtime.__name__.removeprefix("by_"),
            f"{seconds:g} s of synthetic speech",
            *largest_difference([ours], [runtime(file, rate)(x)]),
            largest_difference([streamed], [ours])[0],
        )
