"""Filters, resampling and delays against scipy.signal, and spectra against Keras, live."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert
from scipy import signal
from tables.tiers import sample

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import layers as k

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 200, 3))


def of(layer, x=X):
    """The output for a float64 input, by one compiled program."""
    with jax.enable_x64(True):
        apply = jl.without_state(layer).apply
        return np.asarray(jax.jit(lambda x: apply({}, x))(jnp.asarray(x)))


def same(got, wanted):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, 0, 1e-11 * np.abs(wanted).max())


def linear(layer, theirs, x):
    """A linear layer is ``theirs``, and its gradient the transpose of ``theirs``."""
    with jax.enable_x64(True):
        weights = np.random.default_rng(1).normal(size=theirs(x).shape)

        def loss(x):
            y = layer.apply({}, {}, x)[0]
            return jnp.vdot(y, weights), y

        gradient, y = map(np.asarray, jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(x)))
    same(y, theirs(x))
    # <theirs(d), weights> in random directions d.
    for seed in range(3):
        direction = np.random.default_rng([2, seed]).normal(size=x.shape)
        wanted = np.vdot(theirs(direction), weights)
        np.testing.assert_allclose(np.vdot(gradient, direction), wanted, 1e-9, 1e-9)


scipys = pytest.mark.oracle("SciPy")
keras_own = pytest.mark.oracle("Keras")

FILTERS = {
    "one pole": ([0.3], [1.0, -0.7]),
    "as many poles as zeros": ([0.5, -0.2, 0.1], [2.0, -0.8, 0.3]),
    "more zeros": ([0.5, -0.2, 0.1, 0.4], [1.0, -0.8]),
    "more poles": ([0.2], [1.0, -0.5, 0.3, -0.1, 0.05]),
    "no poles": ([0.5, 0.3, 0.2], [1.0]),
    "a gain": ([3.0], [2.0]),
    "chebyshev": signal.cheby1(4, 1, 0.3),
    "high pass": signal.butter(3, 0.4, "high"),
}


@scipys
@pytest.mark.parametrize("steps", sample([1, 5, 64, 200], 1, 3))
@pytest.mark.parametrize("name", FILTERS)
def test_iir_filter(name, steps):
    b, a = FILTERS[name]
    linear(jl.IIRFilter(b, a), lambda x: signal.lfilter(b, a, x, axis=1), X[:, :steps])


@scipys
@pytest.mark.parametrize("shape", sample([(2, 150), (2, 70, 3), (1, 70, 2, 3)], 1), ids=str)
@pytest.mark.parametrize("order", sample([1, 2, 5, 8], 1, 3))
def test_biquad_filter(order, shape):
    sections = signal.butter(order, [0.1, 0.4], "band", output="sos")
    x = np.random.default_rng(3).normal(size=shape)
    linear(jl.BiquadFilter(sections), lambda x: signal.sosfilt(sections, x, axis=1), x)


@scipys
def test_the_carry_of_a_filter_is_the_state_of_lfilter():
    b, a = FILTERS["chebyshev"]
    with jax.enable_x64(True):
        start, step = jl.stream(jl.IIRFilter(b, a))
        step = jax.jit(step)
        carry = start({}, {}, jnp.asarray(X))
        zi = np.zeros((2, 4, 3))
        for block in np.split(X, [1, 2, 80], axis=1):
            y, carry = step({}, {}, carry, jnp.asarray(block))
            wanted, zi = signal.lfilter(b, a, block, axis=1, zi=zi)
            same(np.asarray(y), wanted)
            same(np.asarray(carry["state"]), zi)


@scipys
@pytest.mark.parametrize("taps", sample([1, 2, 5, 8], 1, 2))
def test_fir_filter(taps):
    h = np.random.default_rng(taps).normal(size=taps)
    linear(jl.FIRFilter(h), lambda x: signal.lfilter(h, 1, x, axis=1), X)
    linear(jl.FIRFilter(h, strides=3), lambda x: signal.lfilter(h, 1, x, axis=1)[:, ::3], X)
    for padding in ("valid", "same") if taps % 2 else ("valid",):
        linear(
            jl.FIRFilter(h, padding=padding),
            lambda x, mode=padding: signal.convolve(x, h[None, :, None], mode),
            X,
        )


@scipys
def test_trained_taps_have_the_gradient_of_a_convolution():
    h = np.array([0.5, -0.3, 0.2])
    layer = jl.FIRFilter(h, trainable=True)
    with jax.enable_x64(True):
        params, _ = layer.init(jax.random.key(0), X)
        np.testing.assert_array_equal(params["taps"], h)
        weights = np.random.default_rng(1).normal(size=X.shape)
        loss = jax.jit(jax.grad(lambda p: jnp.vdot(layer.apply(p, {}, X)[0], weights)))
        gradient = loss({"taps": jnp.asarray(h)})["taps"]
    wanted = [np.vdot(signal.lfilter(tap, 1, X, axis=1), weights) for tap in np.eye(3)]
    np.testing.assert_allclose(gradient, wanted, 1e-10)


RATIOS = [(1, 2), (2, 1), (3, 2), (2, 3), (4, 6), (5, 7), (7, 5), (1, 1), (16, 9), (1, 10)]


@scipys
@pytest.mark.parametrize("steps", sample([200, 37, 1], 1))
@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_resample(ratio, steps):
    linear(jl.Resample(*ratio), lambda x: signal.resample_poly(x, *ratio, axis=1), X[:, :steps])


@scipys
def test_resample_by_another_filter():
    taps = np.random.default_rng(0).normal(size=13)
    layer = jl.Resample(3, 2, taps=taps * 3)
    same(of(layer), signal.resample_poly(X, 3, 2, axis=1, window=taps))
    layer = jl.Resample(3, 2, window="hamming")
    same(of(layer, X[..., 0]), signal.resample_poly(X[..., 0], 3, 2, axis=1, window="hamming"))


@pytest.mark.parametrize("length", [20, 100])
def test_frames_against_numpy(length):
    """Short ones and long ones, which are two algorithms."""

    def theirs(x):
        starts = range(0, x.shape[1] - length + 1, 30)
        return np.stack([x[:, start : start + length] for start in starts], 1)

    linear(jl.Frame(length, strides=30), theirs, X[..., 0])


def test_a_pair_is_the_padding_of_both_ends():
    padded = np.pad(X, ((0, 0), (3, 1), (0, 0)))
    same(of(jl.Frame(8, strides=5, padding=(3, 1))), of(jl.Frame(8, strides=5), padded))
    twice = jl.STFT(8, padding=((3, 1),))
    same(of(jl.STFT(8, padding=(3, 1))), of(twice))
    taps = [0.5, 0.25, 1.0]
    same(of(jl.FIRFilter(taps, padding=(3, 1))), of(jl.FIRFilter(taps, padding="VALID"), padded))


SPECTRA = [
    {},
    {"window": "hamming", "output": "magnitude", "fft_length": 64},
    {"window": ("kaiser", 6.0), "scaling": "spectrum", "output": "power"},
    {"window": None, "strides": 7},
]


@scipys
@pytest.mark.parametrize("options", SPECTRA, ids=convert.label)
def test_stft_against_scipy(options):
    """With whole frames alone, ``spectrogram`` cuts as VALID does."""
    x = X[:, :, 0]
    window = options.get("window", "hann")
    strides = options.get("strides", 10)
    values = np.ones(40) if window is None else signal.get_window(window, 40)
    size = options.get("fft_length", 40)
    frames = np.stack([x[:, i : i + 40] for i in range(0, 161, strides)], 1)
    wanted = np.fft.rfft(frames * values, size, axis=2)
    if options.get("scaling"):
        wanted /= values.sum()
    wanted = {"magnitude": np.abs, "power": lambda y: np.abs(y) ** 2}.get(
        options.get("output"), lambda y: y
    )(wanted)
    same(of(jl.STFT(40, **{"strides": 10, **options}), x), wanted)
    if options.get("output") == "power":
        _, _, power = signal.spectrogram(
            x,
            window=window,
            nperseg=40,
            noverlap=30,
            detrend=False,
            scaling="spectrum",
            mode="psd",
        )
        # One-sided: all bins but the first and the last count twice there.
        power[:, 1:-1] /= 2
        same(of(jl.STFT(40, **{"strides": 10, **options}), x), power.swapaxes(1, 2))


KERAS = [
    {"mode": "stft"},
    {"mode": "stft", "padding": "same", "scaling": "spectrum"},
    {"mode": "magnitude", "window": "hamming", "fft_length": 32},
    {"mode": "magnitude", "frame_step": 5, "periodic": True, "scaling": None},
]


@keras_own
@pytest.mark.parametrize("options", sample(KERAS, 0))
def test_stft_against_keras(options):
    theirs = k.STFTSpectrogram(frame_length=20, expand_dims=True, **options)
    names = {"mode": "output", "frame_step": "strides"}
    ours = {"scaling": "density", "periodic": False, "strides": 10, "fft_length": 32} | {
        names.get(name, name): value for name, value in options.items()
    }
    ours["output"] = {"stft": "real_imag"}.get(ours["output"], ours["output"])
    x = X.astype("float32")
    layer = jl.STFT(20, **ours)
    weights = convert.projection(layer.apply({}, {}, x)[0].shape, "float32")
    with convert.lenient():
        wanted, back = jax.vjp(lambda x: theirs(x), jnp.asarray(x))
        wanted_gradient = back(jnp.asarray(weights))
    got, back = jax.vjp(lambda x: layer.apply({}, {}, x)[0], jnp.asarray(x))
    # A convolution with cosines is not as exact as a transform.
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, 0, 1e-5 * scale)
    for a, b in zip(back(jnp.asarray(weights)), wanted_gradient, strict=True):
        np.testing.assert_allclose(a, b, 0, 1e-4 * np.abs(b).max())


def pulled_back(function, x, weights):
    """The value at ``x``, and the weights pulled back, by one compiled program."""

    def run(x, weights):
        y, back = jax.vjp(function, x)
        return y, back(weights)

    return jax.jit(run)(x, weights)


@keras_own
@pytest.mark.parametrize("power", sample([1.0, 2.0]))
@pytest.mark.parametrize("window_length", sample([None, 48], 1))
def test_mel_spectrogram_against_keras(power, window_length):
    theirs = k.MelSpectrogram(
        fft_length=64,
        sequence_stride=16,
        sequence_length=window_length,
        sampling_rate=8000,
        num_mel_bins=12,
        min_freq=100.0,
        power_to_db=True,
        top_db=1e9,
        mag_exp=power,
    )
    layer = jl.MelSpectrogram(
        12,
        8000,
        64,
        strides=16,
        window_length=window_length,
        padding="CENTER",
        padding_mode="reflect",
        power=power,
        lowest=100.0,
        slopes="mel",
        log="db",
    )
    x = X[:, :, 0].astype("float32")
    weights = convert.projection(layer.apply({}, {}, x)[0].shape, "float32")
    with convert.lenient():
        wanted, wanted_gradient = pulled_back(lambda x: theirs(x).swapaxes(1, 2), x, weights)
    got, gradient = pulled_back(lambda x: layer.apply({}, {}, x)[0], x, weights)
    np.testing.assert_allclose(got, wanted, 1e-4, 1e-3)
    for a, b in zip(gradient, wanted_gradient, strict=True):
        np.testing.assert_allclose(a, b, 0, 1e-3 * np.abs(b).max())


def _triangles(features, bins, rate, to_mel, to_hertz, area):
    """Slaney's filters, one number after the other (Auditory Toolbox, 1998)."""
    low, high = to_mel(0.0), to_mel(rate / 2)
    corners = [to_hertz(low + (high - low) * i / (features + 1)) for i in range(features + 2)]
    filters = np.zeros((bins, features))
    for s in range(bins):
        hertz = s * rate / 2 / (bins - 1)
        for f in range(features):
            left, middle, right = corners[f : f + 3]
            if left < hertz <= middle:
                filters[s, f] = (hertz - left) / (middle - left)
            elif middle < hertz < right:
                filters[s, f] = (right - hertz) / (right - middle)
            if area:
                filters[s, f] *= 2 / (right - left)
    return filters


SCALES = {
    "htk": (
        lambda f: 1127.0 * np.log(1 + f / 700),
        lambda m: 700 * (np.exp(m / 1127.0) - 1),
        # 2595 log10 and 1127 log are the same scale but for four digits.
        1e-5,
    ),
    "slaney": (
        lambda f: f * 3 / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4),
        lambda m: m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27),
        1e-12,
    ),
}


@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("scale", SCALES)
def test_mel_filters(scale, norm):
    to_mel, to_hertz, near = SCALES[scale]
    wanted = _triangles(20, 129, 16000, to_mel, to_hertz, norm)
    got = jl.core.mel_filters(20, 129, 16000, scale=scale, norm=norm)
    np.testing.assert_allclose(got, wanted, 0, near)


@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("scale", SCALES)
def test_mel_filters_against_librosa(scale, norm):
    librosa = pytest.importorskip("librosa.filters")
    got = jl.core.mel_filters(20, 129, 16000, scale=scale, norm=norm)
    theirs = librosa.mel(
        sr=16000, n_fft=256, n_mels=20, htk=scale == "htk", norm=norm, dtype=np.float64
    )
    np.testing.assert_allclose(got, theirs.T, 0, 1e-12)


@pytest.mark.parametrize("output", ["complex", "real_imag"])
@pytest.mark.parametrize("padding", ["VALID", "CENTER"])
@pytest.mark.parametrize("strides", sample([3, 4, 10]))
def test_the_inverse_gives_the_signal_back(strides, padding, output):
    how = {"strides": strides, "window": "hamming", "padding": padding, "scaling": "density"}
    model = jl.serial(jl.STFT(10, output=output, **how), jl.InverseSTFT(10, **how))
    y = of(model)
    same(y, X[:, : y.shape[1]])
    assert 200 - y.shape[1] <= strides
    whole = jl.serial(jl.STFT(10, output=output, **how), jl.InverseSTFT(10, length=200, **how))
    assert of(whole).shape == X.shape


def test_a_causal_inverse_gives_the_signal_back_later():
    how = {"strides": 5, "window": "hann", "padding": "CAUSAL"}
    y = of(jl.serial(jl.STFT(20, **how), jl.InverseSTFT(20, **how)))
    # Where all frames have come.
    same(y[:, 38:], X[:, 19 : 200 - 19])


def test_a_causal_spectrum_is_changed_in_a_stream():
    how = {"strides": 5, "window": "hann", "padding": "CAUSAL"}
    model = jl.serial(jl.STFT(20, **how), lambda y: y * y, jl.InverseSTFT(20, **how))
    start, step = jl.stream(model)
    x = X.astype("float32")
    carry, parts = start({}, {}, x), []
    step = jax.jit(step)
    for block in np.split(x, [5, 20, 100], axis=1):
        y, carry = step({}, {}, carry, block)
        parts.append(y)
    wanted = jax.jit(model.apply)({}, {}, x)[0]
    np.testing.assert_allclose(np.concatenate(parts, 1), wanted, 0, 1e-4)
    assert jl.receptive_field(model, x) == (1, 38, 0)


def test_keras_is_there():
    assert keras.backend.backend() == "jax"


WRONG = {
    "frame_length must be a positive int, got 0": lambda: jl.Frame(0),
    "unknown padding_mode 'edge'": lambda: jl.Frame(3, padding_mode="edge"),
    "unknown padding 'FULLY'": lambda: jl.Frame(3, padding="FULLY"),
    "the frame (300,) is larger than the input (200,)": lambda: of(jl.Frame(300)),
    "takes an array of rank 2 or more, got rank 1": lambda: of(jl.Frame(3), X[0, :, 0]),
    "unknown padding 'SAME'": lambda: jl.OverlapAdd(2, padding="SAME"),
    "takes an array of rank 3 or more, got rank 2": lambda: of(jl.OverlapAdd(2), X[..., 0]),
    "cannot be streamed: later frames add to its samples": lambda: jl.stream(jl.OverlapAdd(2))[0](
        {}, {}, X
    ),
    "fft_length 8 is less than frame_length 9": lambda: jl.STFT(9, fft_length=8),
    "unknown window 'haan'": lambda: jl.STFT(9, window="haan"),
    "window must be a name, or values (window_length,)": lambda: jl.STFT(9, window=np.ones((3, 3))),
    "a window of 10 is longer than a frame of 9": lambda: jl.STFT(9, window_length=10),
    "unknown scaling 'l2'": lambda: jl.STFT(9, scaling="l2"),
    "unknown output 'phase'": lambda: jl.STFT(9, output="phase"),
    "takes real numbers, got complex128": lambda: of(jl.STFT(9), X + 0j),
    "takes 5 complex bins, or 10 real ones": lambda: of(jl.InverseSTFT(8), X),
    "length is for a whole signal": lambda: jl.InverseSTFT(8, padding="CAUSAL", length=9),
    "unknown scale 'bark'": lambda: jl.MelSpectrogram(3, 100, 8, scale="bark"),
    "unknown log 'log2'": lambda: jl.MelSpectrogram(3, 100, 8, log="log2"),
    "triangles from 40 to 30 hertz": lambda: jl.MelSpectrogram(3, 100, 8, lowest=40, highest=30),
    "taps must be a list of numbers, got 'abc'": lambda: jl.FIRFilter("abc"),
    "taps must be a list of numbers, got []": lambda: jl.FIRFilter([]),
    "taps must not all be zero": lambda: jl.Resample(2, taps=[0.0]),
    "numerator must be a list of numbers": lambda: jl.IIRFilter([[1.0]], [1.0]),
    "the first number of the denominator must not be 0": lambda: jl.IIRFilter([1.0], [0.0, 1.0]),
    "sections must be (sections, 6) with a0 other than 0, got (1, 3)": lambda: jl.BiquadFilter(
        [[1.0, 2.0, 3.0]]
    ),
    "steps must be an int of at least 0, got -1": lambda: jl.Delay(-1),
    "the lookahead (300,) is larger than the input (200,)": lambda: of(jl.Lookahead(300)),
    "cannot be streamed: its filter reaches later steps": lambda: jl.stream(jl.Resample(2))[0](
        {}, {}, X
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)
