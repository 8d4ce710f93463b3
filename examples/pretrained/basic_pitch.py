"""basic-pitch 0.4.0: which notes sound, from two seconds of audio.

One network in an ONNX file and in a TensorFlow Lite file. A constant-Q transform is part of the
graph: nine octaves, each the same 36 filters over audio at half the rate of the one before. Its
filters, and the batch norms that were folded into convolutions, are constants of the graph.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

from . import wheels

RATE, SAMPLES = 22050, 43844
HARMONICS = (-36, 0, 36, 57, 72, 84, 93, 101)


def constant_q():
    """From audio (B, 43844, 1) to the power (B, 172, 309) of thirds of semitones."""

    def body(f, x):
        octaves = []
        for octave in range(9):
            padded = jnp.pad(x[..., 0], ((0, 0), (128, 128)), mode="reflect")
            frames = jl.core.frame(padded, length=256, stride=256 >> octave)
            octaves.append(f.real(frames) ** 2 + f.imaginary(frames) ** 2)
            x = f.half_rate(x)
        power = jnp.concatenate(octaves[::-1], -1)[..., -309:]
        return jnp.square(f.lengths(jnp.sqrt(power)))

    filters = {"real": jl.Dense(36), "imaginary": jl.Dense(36)}
    half_rate = jl.Conv(1, 256, strides=2, padding=127)
    return jl.compose(body, **filters, half_rate=half_rate, lengths=jl.Affine(bias=False))


def decibels(power):
    """Between 0 and 1 for the quietest and the loudest place of each window."""
    level = 10 * jnp.log10(power + 1e-10)
    level = level - level.min((1, 2), keepdims=True)
    return jnp.nan_to_num(level / level.max((1, 2), keepdims=True))[..., None]


def harmonics(x):
    """(B, T, 309, 1) at the place of each harmonic of 264 pitches: (B, T, 264, 8)."""
    padded = jnp.pad(x[..., 0], ((0, 0), (0, 0), (36, 101)))
    return jnp.stack([padded[..., 36 + shift :][..., :264] for shift in HARMONICS], -1)


def heads():
    """Contours (B, T, 264), notes and onsets (B, T, 88)."""

    def conv(features, size, then, **options):
        return jl.serial(conv=jl.Conv(features, size, padding="SAME", **options), then=then)

    def body(f, x):
        onset, contour = f.onset_a(x), f.contour_b(f.contour_a(x))
        note = f.note_b(f.note_a(contour))
        onset = f.onset_b(jnp.concatenate([note, onset], -1))
        return contour[..., 0], note[..., 0], onset[..., 0]

    return jl.compose(
        body,
        onset_a=conv(32, 5, jax.nn.relu, strides=(1, 3)),
        contour_a=conv(8, (3, 39), jax.nn.relu),
        contour_b=conv(1, 5, jax.nn.sigmoid),
        note_a=conv(32, 7, jax.nn.relu, strides=(1, 3)),
        note_b=conv(1, (7, 3), jax.nn.sigmoid),
        onset_b=conv(1, 3, jax.nn.sigmoid),
    )


def network():
    return jl.serial(constant_q(), decibels, jl.Affine(), harmonics, heads())


def recording():
    """Three chords over pink noise, cut as basic-pitch cuts audio: (2, 43844, 1).

    Each window is scaled by its quietest place. Where that is not silence, which begins the first
    and ends the last window here, it is a deep null of the transform, and its rounding moves the
    whole window, by up to 1e-4 between two runtimes.
    """
    random = np.random.default_rng(0)
    time = np.arange(70000) / RATE
    spectrum = np.fft.rfft(random.standard_normal(time.size))
    noise = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(time.size, 1 / RATE), 20) ** 0.5)
    audio = 0.03 * noise / noise.std()
    for start, pitches in ((0.1, (48, 60, 64, 67)), (1.1, (45, 57, 60, 64)), (2.3, (41, 65, 69))):
        since = np.maximum(time - start, 0)
        for pitch in pitches:
            for overtone in range(1, 8):
                phase = 2 * np.pi * overtone * 440 * 2 ** ((pitch - 69) / 12) * since
                audio += 0.1 / overtone * np.sin(phase) * np.exp(-2 * overtone * since)
    padded = np.pad(audio.astype(np.float32), (15 * 256, SAMPLES))
    return np.stack([padded[start:][:SAMPLES] for start in (0, SAMPLES - 30 * 256)])[..., None]


def onnx(path, x):
    """Contours, notes and onsets, and what computed them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [f"StatefulPartitionedCall:{number}" for number in range(3)]
    return session.run(names, {session.get_inputs()[0].name: x}), "onnxruntime"


def tflite(path, x):
    """The same by LiteRT, a window at a time; without it, of the ONNX file."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return onnx(path.with_suffix(".onnx"), x)
    run = Interpreter(str(path)).get_signature_runner("serving_default")
    found = [run(input_2=window[None]) for window in x]
    names = ("contour", "note", "onset")
    return [np.concatenate([each[name] for each in found]) for name in names], "ai-edge-litert"


def results():
    """Either file beside its own runtime."""
    import importlib.metadata

    x, model = recording(), network()
    for kind, original in (("onnx", onnx), ("tflite", tflite)):
        path = wheels.path("basic_pitch", f"saved_models/icassp_2022/nmp.{kind}")
        want, runtime = original(path, x)
        params, state = jl.interop.match(model, x, jl.interop.read(path)).load()
        y, _ = jax.jit(model.apply)(params, state, x)
        runtime = f"{runtime} {importlib.metadata.version(runtime)}"
        difference = wheels.largest_difference(y, want)
        yield wheels.Result(
            f"basic-pitch .{kind}", runtime, "chords and noise, synthesised", *difference
        )
