"""Functions that mix steps, as users write them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .functions_of_each_step import HALF, WIDE, B, W
from .rows import MIXED, Table

INF = math.inf
KERNEL = np.random.default_rng(1).normal(size=(3, 4, 4)).astype("float32")
TABLE = np.random.default_rng(2).normal(size=(20, 4)).astype("float32")

table = Table()
earlier, mixed = table.earlier, table.mixed


def _attend(q, k, v, mask=None):
    scores = jnp.einsum("bqd,bkd->bqk", q, k) / 2
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores), v)


def _causal(x):
    return jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))


# Earlier steps, seen as such.


@earlier(window=(-1, -1))
def shift_by_concatenate(x):
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)


@earlier(window=(-1, -1))
def shift_by_pad(x):
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


@earlier(window=(-2, -2))
def shift_by_negative_padding(x):
    return lax.pad(x, 0.0, ((0, 0, 0), (2, -2, 0), (0, 0, 0)))


@earlier(window=(-1, 0))
def token_shift(x):
    before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return x * 0.5 + before * 0.5


@earlier(window=(-1, 0))
def difference(x):
    return x - jnp.concatenate([jnp.zeros((x.shape[0], 1, 4)), x[:, :-1]], axis=1)


@earlier(window=(-1, 0))
def diff_with_prepended_zero(x):
    return jnp.diff(x, axis=1, prepend=0.0)


@earlier(window=(-1, -1))
def shift_with_a_learned_start(x):
    start = jnp.broadcast_to(jnp.asarray(B), (x.shape[0], 1, 4))
    return jnp.concatenate([start, x[:, :-1]], axis=1)


@earlier(window=(-2, 0))
def causal_convolution(x):
    return lax.conv_general_dilated(
        x, KERNEL, (1,), ((2, 0),), dimension_numbers=("NWC", "WIO", "NWC")
    )


@earlier(window=(-4, 0))
def dilated_causal_convolution(x):
    return lax.conv_general_dilated(
        x, KERNEL, (1,), ((4, 0),), rhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
    )


@earlier(window=(-2, 0))
def depthwise_causal_convolution(x):
    kernel = KERNEL[:, :1]
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        ((2, 0),),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=4,
    )


@earlier(window=(-2, 0))
def causal_convolution_by_hand(x):
    padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    return sum(padded[:, i : i + x.shape[1]] @ KERNEL[i] for i in range(3))


@earlier(window=(-2, 0))
def causal_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), (1, 1, 1), ((0, 0), (2, 0), (0, 0)))


@earlier(window=(-2, 0))
def causal_max_by_padding(x):
    padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)), constant_values=-jnp.inf)
    return jnp.maximum(jnp.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])


@earlier(window=(-INF, 0))
def cumulative_sum(x):
    return jnp.cumsum(x, axis=1)


@earlier(window=(-INF, 0))
def running_mean(x):
    return jnp.cumsum(x, axis=1) / jnp.arange(1, x.shape[1] + 1)[:, None]


@earlier(window=(-INF, 0))
def running_max(x):
    return lax.cummax(x, axis=1)


@earlier(window=(-INF, 0))
def running_logsumexp(x):
    return lax.cumlogsumexp(x, axis=1)


@earlier(window=(-INF, -1))
def exclusive_sum(x):
    return (
        jnp.cumsum(x, axis=1) - x
        if False
        else jnp.pad(jnp.cumsum(x, axis=1), ((0, 0), (1, 0), (0, 0)))[:, :-1]
    )


@earlier(window=(-INF, 0))
def recurrence(x):
    def step(h, s):
        h = jnp.tanh(h @ W + s)
        return h, h

    return lax.scan(step, jnp.zeros((x.shape[0], 4)), x.swapaxes(0, 1))[1].swapaxes(0, 1)


@earlier(window=(-INF, -1))
def recurrence_before_the_step(x):

    def step(h, s):
        return (0.9 * h + s, h)

    return lax.scan(step, jnp.zeros_like(x[:, 0] * 0), x.swapaxes(0, 1))[1].swapaxes(0, 1)


@earlier(window=(-INF, 0))
def recurrence_of_each_row(x):
    def row(steps):
        return lax.scan(lambda h, s: (0.5 * h + s, h + s), jnp.zeros(4), steps)[1]

    return jax.vmap(row)(x)


@earlier(window=(-INF, 0))
def lstm_by_hand(x):
    def step(carry, s):
        h, c = carry
        i, f, g, o = jnp.split(jnp.concatenate([s, h], -1) @ np.tile(W, (2, 4)), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[0], 4))
    return lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1].swapaxes(0, 1)


@earlier(window=(-INF, 0))
def linear_attention(x):
    q, k = jax.nn.elu(x) + 1, jax.nn.elu(x @ W) + 1
    state = jnp.cumsum(jnp.einsum("btk,btv->btkv", k, x), axis=1)
    return jnp.einsum("btk,btkv->btv", q, state)


@earlier(window=(-INF, 0))
def minus_the_first_step(x):
    return x - x[:, :1]


@earlier(window=(-INF, 0))
def first_step_by_index(x):
    return x * x[:, 0][:, None]


@earlier(window=(-INF, 0))
def two_layers_of_time(x):
    return jnp.cumsum(jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1], 1) + x


# Earlier steps, seen as mixed.


@earlier(says=MIXED, why="two dimensions of time, a triangular mask")
def causal_attention(x):
    return _attend(x, x @ W, x, _causal(x))


@earlier(says=MIXED, why="two dimensions of time, a triangular mask")
def causal_attention_of_heads(x):
    heads = x.reshape(*x.shape[:2], 2, 2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", heads, heads @ HALF)
    weights = jax.nn.softmax(jnp.where(_causal(x), scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, heads).reshape(x.shape)


@earlier(says=MIXED, why="two dimensions of time, a triangular mask")
def causal_attention_of_jax(x):
    heads = x.reshape(*x.shape[:2], 2, 2)
    return jax.nn.dot_product_attention(heads, heads, heads, is_causal=True).reshape(x.shape)


@earlier(says=MIXED, why="two dimensions of time, a triangular mask")
def alibi_attention(x):
    t = jnp.arange(x.shape[1])
    bias = jnp.where(_causal(x), -0.5 * (t[:, None] - t), -1e9)
    return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(x @ x.swapaxes(1, 2) + bias), x)


@earlier(says=MIXED, why="another program for another length")
def associative_scan(x):
    return lax.associative_scan(jnp.add, x, axis=1)


@earlier(says=MIXED, why="which steps are read is arithmetic")
def earlier_by_index(x):
    return x[:, jnp.arange(x.shape[1]) // 2]


@earlier(says=MIXED, why="another program for another length")
def recurrence_in_python(x):
    h, found = jnp.zeros_like(x[:, 0]), []
    for i in range(x.shape[1]):
        h = 0.5 * h + x[:, i]
        found.append(h)
    return jnp.stack(found, 1)


@earlier(says=MIXED, why="a matrix is not known to be triangular")
def triangular_matrix_over_time(x):
    return jnp.einsum("st,btd->bsd", jnp.tril(jnp.ones((x.shape[1], x.shape[1]))), x)


@earlier(says=MIXED, why="where a loop reads is arithmetic")
def loop_in_place(x):
    return lax.fori_loop(1, x.shape[1], lambda i, y: y.at[:, i].add(y[:, i - 1]), x)


@earlier(says=MIXED, why="steps are taken apart by their number")
def upsampled(x):
    return jnp.repeat(x[:, ::2], 2, axis=1)[:, : x.shape[1]] + x


# Later steps, or all of them.


@mixed()
def minus_mean(x):
    return x - x.mean(1, keepdims=True)


@mixed()
def instance_norm(x):
    return (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-3)


@mixed(rows=True)
def batch_norm(x):
    return (x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-3)


@mixed(rows=True)
def global_norm(x):
    return x / jnp.linalg.norm(x)


@mixed()
def softmax_over_time(x):
    return jax.nn.softmax(x, axis=1)


@mixed()
def softmax_of_swapped(x):
    return jax.nn.softmax(x.swapaxes(1, 2)).swapaxes(1, 2)


@mixed()
def max_over_time(x):
    return x / (1 + jnp.abs(x).max(axis=1, keepdims=True))


@mixed()
def squeeze_and_excite_over_time(x):
    return x * jax.nn.sigmoid(x.mean(1) @ W)[:, None]


@mixed(leads=False)
def mean_over_time(x):
    return x.mean(1)


@mixed(leads=False)
def last_step(x):
    return x[:, -1]


@mixed(leads=False, rows=True)
def loss(x):
    return (x**2).mean()


@mixed(leads=False, says="each", why="steps side by side do not meet, but lead no more")
def flattened(x):
    return x.reshape(x.shape[0], -1)


@mixed()
def attention(x):
    return _attend(x, x @ W, x)


@mixed()
def attention_of_jax(x):
    heads = x.reshape(*x.shape[:2], 2, 2)
    return jax.nn.dot_product_attention(heads, heads, heads).reshape(x.shape)


@mixed()
def local_attention(x):
    t = jnp.arange(x.shape[1])
    return _attend(x, x, x, jnp.abs(t[:, None] - t) <= 1)


@mixed()
def attention_by_matmul(x):
    return jax.nn.softmax(x @ x.mT) @ x


@mixed()
def attention_of_vmapped_rows(x):
    return jax.vmap(lambda r: jax.nn.softmax(r @ r.T) @ r)(x)


@mixed()
def attention_with_keys_padded(x):
    mask = (jnp.arange(x.shape[1]) < 6)[None, None]
    return _attend(x, x, x, mask)


@mixed()
def linear_attention_both_ways(x):
    k = jax.nn.softmax(x, axis=-1)
    return jnp.einsum("btk,bkv->btv", k, jnp.einsum("btk,btv->bkv", k, x))


@mixed()
def attention_pool(x):
    weights = jax.nn.softmax(x[..., 0], axis=1)
    return x + jnp.einsum("bt,btd->bd", weights, x)[:, None]


@mixed()
def perceiver(x):
    latents = _attend(jnp.broadcast_to(W, (x.shape[0], 4, 4)), x, x)
    return _attend(x, latents, latents)


@mixed(rows=True)
def attention_over_flattened_batch(x):
    flat = x.reshape(-1, 4)
    return (jax.nn.softmax(flat @ flat.T) @ flat).reshape(x.shape)


@mixed(window=(1, 1))
def shift_left(x):
    return jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)


@mixed(window=(0, 1))
def next_difference(x):
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0))) - x


@mixed()
def rolled(x):
    return jnp.roll(x, 1, axis=1)


@mixed()
def rolled_by_numpy_style(x):
    return jnp.concatenate([x[:, -1:], x[:, :-1]], axis=1)


@mixed(window=(-1, 1))
def same_convolution(x):
    return lax.conv_general_dilated(
        x, KERNEL, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )


@mixed(window=(-1, 1))
def smoothing_by_hand(x):
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


@mixed(window=(-1, 1))
def average_pool_of_the_same_length(x):
    ones = (1, 1, 1)
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), ones, ((0, 0), (1, 1), (0, 0))) / 3


@mixed(says=MIXED)
def convolution_of_each_channel(x):

    def f(v):
        return jnp.convolve(v, jnp.ones(3), mode="same")

    return jax.vmap(jax.vmap(f, in_axes=1, out_axes=1))(x)


@mixed()
def edge_padding(x):
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)), mode="edge")
    return padded[:, 2:] - padded[:, :-2]


@mixed(window=(0, 1), leads=False)
def valid_pairs(x):
    return x[:, 1:] + x[:, :-1]


@mixed(leads=False)
def strided_steps(x):
    return x[:, ::2]


@mixed(leads=False)
def pooled_pairs(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")


@mixed(window=(0, INF))
def reverse_cumulative_sum(x):
    return lax.cumsum(x, axis=1, reverse=True)


@mixed()
def flip_cumsum_flip(x):
    return jnp.flip(jnp.cumsum(jnp.flip(x, 1), 1), 1)


@mixed()
def flipped(x):
    return x[:, ::-1]


@mixed(window=(0, INF))
def backward_recurrence(x):

    def step(h, s):
        return (0.5 * h + s, h + s)

    zeros = jnp.zeros((x.shape[0], 4))
    return lax.scan(step, zeros, x.swapaxes(0, 1), reverse=True)[1].swapaxes(0, 1)


@mixed()
def final_state_for_all(x):
    final = lax.scan(lambda h, s: (0.5 * h + s, None), x[:, 0] * 0, x.swapaxes(0, 1))[0]
    return x + final[:, None]


@mixed()
def bidirectional(x):
    steps = x.swapaxes(0, 1)

    def f(h, s):
        return (0.5 * h + s, h)

    zeros = jnp.zeros((x.shape[0], 4))
    both = [lax.scan(f, zeros, steps, reverse=r)[1] for r in (False, True)]
    return jnp.concatenate(both, -1).swapaxes(0, 1)


@mixed()
def sorted_over_time(x):
    return jnp.sort(x, axis=1)


@mixed()
def rank_over_time(x):
    return jnp.argsort(jnp.argsort(x, axis=1), axis=1).astype(jnp.float32)


@mixed()
def top_steps(x):
    smallest = lax.top_k(x[..., 0], 3)[0][:, -1:]
    return jnp.where((x[..., 0] >= smallest)[..., None], x, 0)


@mixed(leads=False)
def best_step(x):
    return jnp.take_along_axis(x, jnp.argmax(x[..., :1], axis=1, keepdims=True), axis=1)


@mixed()
def steps_by_computed_index(x):
    index = jnp.abs(x[..., 0] * 10).astype(jnp.int32) % x.shape[1]
    return jnp.take_along_axis(x, index[..., None], axis=1)


@mixed()
def steps_by_reversed_index(x):
    return x[:, x.shape[1] - 1 - jnp.arange(x.shape[1])]


@mixed()
def fft_over_time(x):
    return jnp.fft.fft(x, axis=1).real


@mixed()
def fnet(x):
    return jnp.fft.fft2(x, axes=(1, 2)).real


@mixed()
def long_convolution_by_fft(x):
    n = 2 * x.shape[1]
    kernel = jnp.fft.rfft(jnp.ones(3)[:, None], n=n, axis=0)
    spectrum = jnp.fft.rfft(x, n=n, axis=1) * kernel
    return jnp.fft.irfft(spectrum, n=n, axis=1)[:, 1 : x.shape[1] + 1]


@mixed()
def mixer_over_time(x):
    return jnp.einsum("st,btd->bsd", jnp.ones((x.shape[1], x.shape[1])), x)


@mixed()
def gram_of_time(x):
    return jnp.einsum("btd,bsd->bts", x, x).sum(-1, keepdims=True) * x


@mixed()
def whitened_over_time(x):
    covariance = jnp.einsum("bti,btj->bij", x, x) + jnp.eye(4)
    return jnp.linalg.solve(covariance, x.swapaxes(1, 2)).swapaxes(1, 2)


@mixed()
def segment_sum(x):
    segments = jnp.arange(x.shape[1]) // 3

    def f(row):
        return jax.ops.segment_sum(row, segments, num_segments=6)[segments]

    return jax.vmap(f)(x)


@mixed()
def chunked(x):
    pairs = x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], -1, 2, 4)
    return x + pairs.mean((1, 2))[:, None]


@mixed(leads=False)
def patches(x):
    return x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], -1, 8)


@mixed()
def channels_and_time_confused(x):
    return x.reshape(x.shape[0], 4, -1).swapaxes(1, 2) @ W


@mixed(rows=True)
def batch_and_time_confused(x):
    return jnp.tanh(x.reshape(x.shape[1], x.shape[0], 4)).swapaxes(0, 1)


@mixed(rows=True)
def cond_on_the_input(x):
    return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)


@mixed(rows=True)
def while_until_small(x):
    return lax.while_loop(lambda h: jnp.abs(h).max() > 1, lambda h: h * 0.5, x)


@mixed(rows=True)
def noise_from_the_data(x):
    key = jax.random.key(x.sum().astype(jnp.int32))
    return x + jax.random.normal(key, (4,))


@mixed()
def swapped_halves(x):
    half = x.shape[1] // 2
    return jnp.concatenate([x[:, half:], x[:, :half]], axis=1)


@mixed()
def loop_that_reads_the_next_step(x):
    n = x.shape[1]

    def body(i, y):
        return y.at[:, i].set(x[:, (i + 1) % n])

    return lax.fori_loop(0, n, body, jnp.zeros_like(x))


@mixed()
def interpolated_over_time(x):
    return jax.image.resize(x[:, ::2], x.shape, "linear")


@mixed(rows=True)
def scan_over_rows_with_a_mean(x):

    def total(c, row):
        return (c + row.mean(0), row + c)

    return lax.scan(total, jnp.zeros(4), x)[1]


@mixed()
def moved_by_dynamic_slice(x):
    padded = jnp.pad(x, ((0, 0), (0, 3), (0, 0)))
    return lax.dynamic_slice_in_dim(padded, 2, x.shape[1], axis=1)


@mixed()
def steps_by_counting_down(x):
    rows, steps = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[1])[None]
    return x[rows, x.shape[1] - 1 - steps]


@mixed()
def rows_counted_along_steps(x):
    return x[:, jnp.arange(4)].swapaxes(1, 2).sum(1, keepdims=True) + x


@mixed(rows=True)
def until_all_are_small(x):
    def halve(row):
        return lax.while_loop(lambda h: jnp.abs(h).max() > 1, lambda h: h * 0.5, row)

    return jax.vmap(halve)(x) + halve(x)


@mixed()
def learned_position_attention(x):
    h = x + jnp.asarray(TABLE)[: x.shape[1]]
    return _attend(h, h, h)


@mixed()
def last_step_for_all(x):
    return x - x[:, -1:]


@mixed()
def mean_of_masked_steps(x):
    valid = (x[..., :1] > 0).astype(x.dtype)
    return x - (x * valid).sum(1, keepdims=True) / jnp.maximum(valid.sum(1, keepdims=True), 1)


@mixed()
def gated_by_the_sum_of_squares(x):
    return (x @ WIDE)[..., :4] * jnp.sum(x * x, axis=(1, 2), keepdims=True)


@mixed(rows=True)
def unique_by_callback(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda v: np.asarray(v) - np.asarray(v).mean(), shape, x)
