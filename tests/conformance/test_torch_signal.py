"""Spectra and their inverses against PyTorch, in float64: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


X = np.random.default_rng(0).normal(size=(3, 100))
WINDOWS = {"hann": torch.hann_window, "hamming": torch.hamming_window, None: torch.ones}


def both(theirs, ours, x):
    """Values and gradients of a random projection agree; complex values by their two parts."""
    theirs_x = torch.tensor(x, requires_grad=True)
    wanted = theirs(theirs_x)
    parts = torch.view_as_real(wanted) if wanted.is_complex() else wanted
    weights = convert.projection(parts.shape, "float64")
    (parts * torch.tensor(weights)).sum().backward()

    def loss(x):
        y = ours(x)
        y = jnp.stack([y.real, y.imag], -1) if jnp.iscomplexobj(y) else y
        return jnp.vdot(y, weights), y

    gradient, got = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(x))
    gradients = [np.asarray(gradient), theirs_x.grad.numpy()]
    if np.iscomplexobj(x):
        gradients[0] = gradients[0].conj()  # JAX gives the conjugate of PyTorch's
    for have, want in ((got, parts.detach().numpy()), gradients):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, 0, 1e-12 * max(np.abs(want).max(), 1e-3))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("center", [None, "reflect", "constant", "replicate"])
@pytest.mark.parametrize(("n_fft", "hop", "win_length"), [(16, 4, None), (15, 5, 9), (16, 7, 13)])
@pytest.mark.parametrize("window", WINDOWS)
def test_stft(window, n_fft, hop, win_length, center, normalized):
    values = WINDOWS[window](win_length or n_fft, dtype=torch.float64)
    layer = jl.STFT(
        n_fft,
        strides=hop,
        window=window,
        window_length=win_length,
        scaling="ortho" if normalized else None,
        padding="VALID" if center is None else "CENTER",
        padding_mode={None: "zeros", "constant": "zeros"}.get(center, center),
    )

    def theirs(x):
        return torch.stft(
            x,
            n_fft,
            hop,
            win_length,
            values,
            center=center is not None,
            pad_mode=center or "reflect",
            normalized=normalized,
            return_complex=True,
        ).swapaxes(1, 2)

    both(theirs, lambda x: layer.apply({}, {}, x)[0], X)


@pytest.mark.parametrize("symmetric", [False, True])
def test_windows(symmetric):
    values = torch.hann_window(12, periodic=not symmetric, dtype=torch.float64)
    layer = jl.STFT(12, strides=3, periodic=not symmetric)
    other = jl.STFT(12, strides=3, window=values.numpy())

    def theirs(x):
        y = torch.stft(x, 12, 3, window=values, center=False, return_complex=True)
        return y.swapaxes(1, 2)

    for own in (layer, other):
        both(theirs, lambda x, own=own: own.apply({}, {}, x)[0], X)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("length", [None, 90, 97, 60])
@pytest.mark.parametrize(("n_fft", "hop", "win_length"), [(16, 4, None), (15, 5, 9), (16, 7, 13)])
def test_istft(n_fft, hop, win_length, length, normalized):
    random = np.random.default_rng(1)
    y = random.normal(size=(2, 13, n_fft // 2 + 1)) + 1j * random.normal(
        size=(2, 13, n_fft // 2 + 1)
    )
    values = torch.hamming_window(win_length or n_fft, dtype=torch.float64)
    if length is not None and length > 12 * hop + n_fft // 2:
        pytest.skip("PyTorch refuses samples that no frame has")
    layer = jl.InverseSTFT(
        n_fft,
        strides=hop,
        window="hamming",
        window_length=win_length,
        padding="CENTER",
        scaling="ortho" if normalized else None,
        length=length,
    )

    def theirs(y):
        return torch.istft(
            y.swapaxes(1, 2), n_fft, hop, win_length, values, normalized=normalized, length=length
        )

    both(theirs, lambda y: layer.apply({}, {}, y)[0], y)


def test_frames_and_their_sum():
    """PyTorch's unfold and fold of signals."""
    layer = jl.Frame(6, strides=4)
    both(lambda x: x.unfold(1, 6, 4), lambda x: layer.apply({}, {}, x)[0], X)
    frames = np.random.default_rng(2).normal(size=(2, 9, 6))

    def fold(y):
        total = torch.nn.functional.fold(y.swapaxes(1, 2), (1, 38), (1, 6), stride=(1, 4))
        return total[:, 0, 0]

    both(fold, lambda y: jl.OverlapAdd(4).apply({}, {}, y)[0], frames)
