"""Convolutions and pools with their gradients, in NumPy loops: for any padding, in float64."""

import itertools

import numpy as np


def _padded(x, padding, fill=0.0):
    """Padded by (low, high) on each spatial axis; cropped where one is negative."""
    both = [(max(low, 0), max(high, 0)) for low, high in padding]
    x = np.pad(x, ((0, 0), *both, (0, 0)), constant_values=fill)
    return x[(slice(None), *(slice(-min(a, 0), n + min(b, 0)) for n, (a, b) in _zip(x, padding)))]


def _zip(x, padding):
    return zip(x.shape[1:-1], padding, strict=True)


def _unpadded(x, padding):
    return _padded(x, [(-low, -high) for low, high in padding])


def conv(x, kernel, ct, *, strides, padding, dilation, groups):
    """(y, dx, dkernel): each element of the kernel with the pixels that it meets."""
    x, kernel, ct = (np.asarray(a, np.float64) for a in (x, kernel, ct))
    seen, size = _padded(x, padding), kernel.shape[:-2]
    inputs, features = kernel.shape[-2], kernel.shape[-1] // groups
    y, dx, dkernel = np.zeros_like(ct), np.zeros_like(seen), np.zeros_like(kernel)
    for offset in np.ndindex(*size):
        at = zip(offset, dilation, strides, ct.shape[1:-1], strict=True)
        pixels = tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, s, n in at)
        for group in range(groups):
            read = (slice(None), *pixels, slice(group * inputs, (group + 1) * inputs))
            out = (..., slice(group * features, (group + 1) * features))
            tap = kernel[offset][:, out[1]]
            y[out] += seen[read] @ tap
            dx[read] += ct[out] @ tap.T
            axes = range(seen.ndim - 1)
            dkernel[offset][:, out[1]] += np.tensordot(seen[read], ct[out], (axes, axes))
    return y, _unpadded(dx, padding), dkernel


def conv_transpose(x, kernel, ct, *, strides, padding, dilation, groups):
    """(y, dx, dkernel), with zeros between the pixels and a convolution of stride 1."""
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], strides, strict=True)]
    dilated = np.zeros((x.shape[0], *sizes, x.shape[-1]))
    every = (slice(None), *(slice(None, None, s) for s in strides))
    dilated[every] = x
    ones = (1,) * len(strides)
    how = {"strides": ones, "padding": padding, "dilation": dilation, "groups": groups}
    y, dx, dkernel = conv(dilated, kernel, ct, **how)
    return y, dx[every], dkernel


def pool(x, ct, mean, *, window_shape, strides, padding, count_include_pad=False):
    """(y, dx) of the mean or the maximum; a window of padding alone is 0 or -inf."""
    x, ct = np.asarray(x, np.float64), np.asarray(ct, np.float64)
    seen = _padded(x, padding, 0.0 if mean else -np.inf)
    inside = _padded(np.ones_like(x), padding) > 0
    y, dx = np.zeros_like(ct), np.zeros_like(seen)
    for index in itertools.product(*map(range, ct.shape)):
        row, *position, channel = index
        at = zip(position, strides, window_shape, strict=True)
        window = (row, *(slice(p * s, p * s + k) for p, s, k in at), channel)
        if mean:
            count = seen[window].size if count_include_pad else inside[window].sum()
            y[index] = seen[window].sum() / max(count, 1)
            dx[window] += inside[window] * ct[index] / max(count, 1)
        else:
            y[index] = seen[window].max()
            if inside[window].any():
                first = np.unravel_index(seen[window].argmax(), seen[window].shape)
                dx[window][first] += ct[index]
    return y, _unpadded(dx, padding)
