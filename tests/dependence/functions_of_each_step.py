"""Functions of each step alone, as users write them; W, B and the tables stand for parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .rows import Table

_random = np.random.default_rng(0)
W = _random.normal(size=(4, 4)).astype("float32")
WIDE = _random.normal(size=(4, 8)).astype("float32")
B = _random.normal(size=4).astype("float32")
EMBEDDING = _random.normal(size=(10, 4)).astype("float32")
BOXES = np.arange(4, dtype="float32")
HALF = _random.normal(size=(2, 2)).astype("float32")

table = Table()
each, alarm, by_place, of_rows = table.each, table.alarm, table.each_by_place, table.each_of_rows


def ids(x):
    """Ids of the first feature, in place of a tokeniser."""
    return jnp.abs(x[..., 0] * 3).astype(jnp.int32) % 10


@each
def identity(x):
    return x


@each
def relu(x):
    return jax.nn.relu(x)


@each
def gelu(x):
    return jax.nn.gelu(x)


@each
def swish_by_hand(x):
    return x * jax.nn.sigmoid(1.702 * x)


@each
def mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


@each
def dense(x):
    return jnp.dot(x, W) + B


@each
def dense_by_einsum(x):
    return jnp.einsum("btd,de->bte", x, W)


@each
def dense_by_tensordot(x):
    return jnp.tensordot(x, W, axes=1)


@each
def dense_of_flattened_batch(x):
    b, t, d = x.shape
    return (x.reshape(b * t, d) @ W).reshape(b, t, -1)


@each
def dense_of_unknown_length(x):
    return (x.reshape(-1, x.shape[-1]) @ W).reshape(*x.shape[:-1], -1)


@each
def mlp(x):
    return jax.nn.relu(x @ WIDE) @ WIDE.T


@each
def glu(x):
    return jax.nn.glu(x @ WIDE)


@each
def swiglu(x):
    gate, up = jnp.split(x @ WIDE, 2, axis=-1)
    return jax.nn.silu(gate) * up


@each
def highway(x):
    gate = jax.nn.sigmoid(x @ W)
    return gate * jnp.tanh(x @ W + B) + (1 - gate) * x


@each
def squeeze_and_excite_features(x):
    return x * jax.nn.sigmoid(x.mean(-1, keepdims=True))


@each
def layer_norm(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * B + B


@each
def rms_norm(x):
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * B


@each
def group_norm_of_features(x):
    groups = x.reshape(*x.shape[:-1], 2, 2)
    groups = (groups - groups.mean(-1, keepdims=True)) / (groups.std(-1, keepdims=True) + 1e-3)
    return groups.reshape(x.shape)


@each
def unit_length(x):
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)


@each
def softmax_over_features(x):
    return jax.nn.softmax(x, axis=-1)


@each
def log_softmax(x):
    return jax.nn.log_softmax(x)


@each
def logsumexp(x):
    return x - jax.scipy.special.logsumexp(x, axis=2, keepdims=True)


@each
def standardise_by_constants(x):
    return (x - jnp.array([0.1, 0.2, 0.3, 0.4])) / 2.5


@each
def heads_by_reshape(x):
    b, t, d = x.shape
    heads = x.reshape(b, t, 2, d // 2)
    return jnp.tanh(heads @ HALF).reshape(b, t, d)


@each
def heads_in_front(x):
    b, t, d = x.shape
    heads = x.reshape(b, t, 2, d // 2).transpose(0, 2, 1, 3)
    return (heads @ HALF).transpose(0, 2, 1, 3).reshape(b, t, d)


@each
def heads_folded_into_batch(x):
    b, t, d = x.shape
    heads = x.reshape(b, t, 2, 2).transpose(2, 0, 1, 3).reshape(2 * b, t, 2)
    heads = jnp.sin(heads @ HALF)
    return heads.reshape(2, b, t, 2).transpose(1, 2, 0, 3).reshape(b, t, d)


@each
def heads_by_einsum(x):
    weight = WIDE.reshape(4, 2, 4)
    return jnp.einsum("btd,dhk->bthk", x, weight).sum(-2)


@each
def attention_between_heads(x):
    heads = x.reshape(*x.shape[:2], 2, 2)
    scores = jax.nn.softmax(jnp.einsum("bthd,btgd->bthg", heads, heads))
    return jnp.einsum("bthg,btgd->bthd", scores, heads).reshape(x.shape)


@each
def bilinear(x):
    return jnp.einsum("bti,ijk,btj->btk", x, WIDE.reshape(4, 4, 2), x)


@each
def outer_product(x):
    return jnp.einsum("bti,btj->btij", x, x).reshape(*x.shape[:2], -1)


@each
def batched_matmul_of_steps(x):
    return jnp.matmul(x[..., None, :], x[..., :, None])[..., 0]


@each
def polynomial_features(x):
    return jnp.concatenate([x, x**2, x**3], axis=-1)


@each
def stacked_features(x):
    return jnp.stack([x, -x, jnp.abs(x)], axis=-1).max(-1)


@each
def maxout(x):
    return (x @ WIDE).reshape(*x.shape[:-1], 4, 2).max(-1)


@each
def constant_channel(x):
    return jnp.concatenate([x, jnp.ones((*x.shape[:2], 1))], -1)


@each
def repeat_features(x):
    return jnp.repeat(x, 2, axis=-1)


@each
def tile_features(x):
    return jnp.tile(x, (1, 1, 3))


@each
def pad_features(x):
    return jnp.pad(x, ((0, 0), (0, 0), (1, 2)))


@each
def roll_features(x):
    return jnp.roll(x, 1, axis=-1)


@each
def flip_features(x):
    return x[..., ::-1]


@each
def sort_features(x):
    return jnp.sort(x, axis=-1)


@each
def argsort_features(x):
    return jnp.argsort(x, axis=-1)


@each
def top_k_features(x):
    values, where = lax.top_k(x, 2)
    return jnp.concatenate([values, where.astype(values.dtype)], -1)


@each
def top_k_gate(x):
    smallest = lax.top_k(x, 2)[0][..., -1:]
    return jnp.where(x >= smallest, x, 0.0)


@each
def argmax_one_hot(x):
    return jax.nn.one_hot(jnp.argmax(x, -1), 4)


@each
def median_of_features(x):
    return jnp.median(x, axis=-1, keepdims=True)


@each
def quantile_of_features(x):
    return jnp.quantile(x, 0.3, axis=-1)[..., None]


@each
def cumsum_of_features(x):
    return jnp.cumsum(x, axis=-1)


@each
def cumulative_max_of_features(x):
    return lax.cummax(x, axis=2, reverse=True)


@each
def features_by_index(x):
    return x[..., jnp.array([2, 0, 1])]


@each
def features_taken(x):
    return jnp.take(x, jnp.array([0, 3, 3]), axis=-1)


@each
def take_along_features(x):
    return jnp.take_along_axis(x, jnp.argsort(-x, axis=-1)[..., :2], axis=-1)


@each
def embedding(x):
    return jnp.asarray(EMBEDDING)[ids(x)]


@each
def embedding_by_take(x):
    return jnp.take(EMBEDDING, ids(x), axis=0)


@each
def embedding_by_one_hot(x):
    return jax.nn.one_hot(ids(x), 10) @ EMBEDDING


@each
def tied_logits(x):
    return x @ EMBEDDING.T


@each
def codebook(x):
    distance = ((x[..., None, :] - EMBEDDING) ** 2).sum(-1)
    nearest = jnp.argmin(distance, axis=-1)
    return x + lax.stop_gradient(jnp.asarray(EMBEDDING)[nearest] - x)


@each
def digitize(x):
    return jnp.digitize(x, BOXES)


@each
def searchsorted(x):
    return jnp.searchsorted(jnp.asarray(BOXES), x)


@each
def interpolated(x):
    return jnp.interp(x, BOXES, jnp.asarray(BOXES) ** 2)


@each
def fourier_features(x):
    angles = x[..., None] * 2.0 ** jnp.arange(3)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*x.shape[:2], -1)


@each
def radial_basis(x):
    return jnp.exp(-((x[..., None] - jnp.linspace(-1, 1, 5)) ** 2)).sum(-1)


@each
def clipped(x):
    return jnp.clip(x, -1, 1)


@each
def nan_to_num(x):
    return jnp.nan_to_num(jnp.log(x))


@each
def hard_where(x):
    return jnp.where(x > 0, x, jnp.where(x < -1, -1.0, 0.1 * x))


@each
def scaled_by_float16(x):
    return (x.astype(jnp.bfloat16) * 2).astype(jnp.float32)


@each
def complex_phase(x):
    z = x[..., :2] + 1j * x[..., 2:]
    return jnp.concatenate([jnp.abs(z), jnp.angle(z)], -1)


@each
def bit_trick(x):
    return lax.bitcast_convert_type(x, jnp.int32) & 255


@each
def special_functions(x):
    a = jnp.abs(x) + 0.5
    return lax.lgamma(a) + lax.digamma(a) + lax.erf_inv(jnp.tanh(x)) + jnp.sinc(x)


@each
def dct_of_features(x):
    return jnp.fft.rfft(x, axis=-1).real


@each
def inverse_of_each_step(x):
    matrices = x.reshape(*x.shape[:2], 2, 2) + 3 * jnp.eye(2)
    return jnp.linalg.inv(matrices).reshape(x.shape)


@each
def solve_with_constant_matrix(x):
    return jnp.linalg.solve(jnp.eye(4) * 2 + W @ W.T, x[..., None])[..., 0]


@each
def cholesky_of_each_step(x):
    a = jnp.einsum("bti,btj->btij", x, x) + jnp.eye(4)
    return jnp.linalg.cholesky(a).sum(-1)


@each
def singular_values(x):
    return jnp.linalg.svd(x.reshape(*x.shape[:2], 2, 2), compute_uv=False)


@each
def qr_of_each_step(x):
    return jnp.linalg.qr(x.reshape(*x.shape[:2], 2, 2))[1].reshape(x.shape)


@each
def determinant(x):
    return jnp.linalg.det(x.reshape(*x.shape[:2], 2, 2))


@each
def eigenvalues(x):
    a = x.reshape(*x.shape[:2], 2, 2)
    return jnp.linalg.eigvalsh(a + jnp.swapaxes(a, -1, -2))


@each
def vmapped_twice(x):
    return jax.vmap(jax.vmap(lambda v: jnp.tanh(W @ v) + v.sum()))(x)


@each
def vmapped_over_time(x):
    return jax.vmap(lambda s: s @ W, in_axes=1, out_axes=1)(x)


@each
def vmapped_with_sort(x):
    return jax.vmap(jax.vmap(lambda v: jnp.sort(v)[jnp.argmax(v)] * v))(x)


@each
def vectorized(x):
    return jnp.vectorize(lambda v: v / v.max(), signature="(n)->(n)")(x)


@each
def mapped_over_batch(x):
    return lax.map(lambda row: jnp.tanh(row) @ W, x)


@each
def mapped_over_time(x):
    return lax.map(lambda s: s @ W, x.swapaxes(0, 1)).swapaxes(0, 1)


@each
def mapped_over_flattened(x):
    return lax.map(lambda v: v * v.sum(), x.reshape(-1, 4)).reshape(x.shape)


@each
def scanned_without_carry(x):
    return lax.scan(lambda c, s: (c, jnp.sin(s) @ W), None, x.swapaxes(0, 1))[1].swapaxes(0, 1)


@each
def scanned_with_constant_carry(x):

    def step(c, s):
        return (c, s + c)

    return lax.scan(step, jnp.asarray(B), x.swapaxes(0, 1))[1].swapaxes(0, 1)


@each
def scanned_in_reverse_without_carry(x):
    steps = x.swapaxes(0, 1)
    return lax.scan(lambda c, s: (c, s @ W), 0.0, steps, reverse=True)[1].swapaxes(0, 1)


@each
def scan_over_layers(x):
    weights = jnp.stack([jnp.asarray(W)] * 3)
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]


@each
def scan_over_layers_stacked(x):
    weights = jnp.stack([jnp.asarray(W)] * 3)
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), h), x, weights)[1].sum(0)


@each
def fori_loop_of_a_fixed_count(x):
    return lax.fori_loop(0, 5, lambda i, h: h - 0.1 * (h**3 - x) * i, x)


@each
def while_loop_of_a_fixed_count(x):

    def body(c):
        return (c[0] + 1, c[1] * 0.5 + x)

    return lax.while_loop(lambda c: c[0] < 4, body, (0, x))[1]


@each
def newton_unrolled(x):
    y = jnp.ones_like(x)
    for _ in range(4):
        y = y - (y * y - jnp.abs(x) - 1) / (2 * y)
    return y


@each
def cond_on_a_constant(x):
    return lax.cond(jnp.asarray(True), jnp.sin, jnp.cos, x)


@each
def switch_on_a_constant(x):
    return lax.switch(jnp.asarray(1), [jnp.sin, jnp.cos, lambda v: v @ W], x)


@each
def cond_of_each_step(x):

    def f(v):
        return lax.cond(v.sum() > 0, jnp.sin, lambda u: u @ W, v)

    return jax.vmap(jax.vmap(f))(x)


@each
def checkpointed(x):
    return jax.checkpoint(lambda h: jnp.tanh(h @ W))(x)


@each
def jitted_inside(x):
    return jax.jit(lambda h: jax.jit(jnp.tanh)(h) @ W)(x)


@jax.custom_jvp
def _exponential(x):
    return jnp.exp(x)


_exponential.defjvp(lambda p, t: (jnp.exp(p[0]), jnp.exp(p[0]) * t[0]))


@jax.custom_vjp
def _clipped_gradient(x):
    return jnp.sin(x)


_clipped_gradient.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.clip(g, -1, 1) * jnp.cos(x),))


@each
def custom_jvp(x):
    return _exponential(x) + 1


@each
def custom_vjp(x):
    return _clipped_gradient(x @ W)


@each
def gradient_inside(x):
    return jax.grad(lambda v: (jnp.tanh(v @ W) ** 2).sum())(x)


@each
def jvp_inside(x):
    return jax.jvp(jax.nn.softmax, (x,), (jnp.ones_like(x),))[1]


@each
def jacobian_of_each_step(x):
    return jax.vmap(jax.vmap(jax.jacfwd(jax.nn.softmax)))(x).sum(-1)


@each
def time_first_and_back(x):
    return (x.swapaxes(0, 1) @ W).swapaxes(0, 1)


@each
def features_first_and_back(x):
    return jax.nn.softmax(x.transpose(2, 1, 0), axis=0).transpose(2, 1, 0)


@each
def extra_dimension(x):
    return jnp.squeeze(jnp.expand_dims(x, 1) * 2, 1)


@each
def shift_there_and_back(x):
    later = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    return later[:, 2:] * 2


@each
def kernel_of_one_step(x):
    return lax.conv_general_dilated(
        x, W[None], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )


@each
def image_of_each_step(x):
    images = x.reshape(-1, 2, 2, 1)
    kernel = jnp.ones((2, 2, 1, 3))
    y = lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*x.shape[:2], -1)


@each
def convolution_over_features(x):
    return jax.vmap(jax.vmap(lambda v: jnp.convolve(v, jnp.ones(3), mode="same")))(x)


@each
def pooling_over_features(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2), (1, 1, 2), "VALID")


@each
def resized_features(x):
    return jax.image.resize(x, (*x.shape[:2], 8), "linear")


@each
def write_one_feature(x):
    return x.at[..., 0].set(0.0)


@each
def add_to_features(x):
    return x.at[:, :, jnp.array([0, 2])].add(1.5)


@each
def scatter_of_each_step(x):

    def f(v):
        return jnp.zeros(6).at[jnp.argsort(v)].add(v)

    return jax.vmap(jax.vmap(f))(x)


@each
def dynamic_feature(x):
    return lax.dynamic_slice_in_dim(x, 1, 2, axis=2)


@each
def update_features(x):
    return lax.dynamic_update_slice(x, jnp.zeros((*x.shape[:2], 2)), (0, 0, 1))


@each
def mixture_of_experts(x):
    gates = jax.nn.softmax(x @ W)
    experts = jnp.einsum("btd,edf->btef", x, jnp.stack([jnp.asarray(W)] * 4))
    return jnp.einsum("bte,btef->btf", gates, experts)


@each
def expert_by_index(x):
    choice = jnp.argmax(x, -1)
    weights = jnp.stack([jnp.asarray(W)] * 4)
    return jnp.einsum("btd,btdf->btf", x, weights[choice])


@each
def same_noise_for_every_step(x):
    return x + jax.random.normal(jax.random.key(0), (x.shape[-1],))


@each
def dropped_features(x):
    keep = jax.random.bernoulli(jax.random.key(1), 0.5, (1, 1, x.shape[-1]))
    return jnp.where(keep, x / 0.5, 0)


@each
def zeros_of_the_shape(x):
    return x + jnp.zeros_like(x) + jnp.full(x.shape, 0.5)


@each
def ones_for_every_step(x):
    return x * jnp.ones((x.shape[1], 1))


@each
def bias_tiled_over_time_and_features(x):
    b, t, d = x.shape
    return (x.reshape(b, t * d) + jnp.tile(jnp.asarray(B), t)).reshape(x.shape)


@each
def tuple_inside(x):
    parts = {"a": x[..., :2], "b": (x[..., 2:],)}
    return jax.tree.reduce(lambda a, b: a + b.sum(-1, keepdims=True), parts, 0.0) + x


@each
def state_space_output(x):
    return jnp.einsum("btn,nm->btm", x, jax.scipy.linalg.expm(jnp.asarray(W) * 0.1))


@each
def product_of_features(x):
    return jnp.prod(x, axis=-1, keepdims=True) * jnp.any(x > 0, axis=-1, keepdims=True)


@each
def softplus_temperature(x):
    return jax.nn.softplus(x) / jnp.maximum(jnp.exp(jnp.asarray(B)).mean(), 0.1)


@each
def hinge_with_unravelled_index(x):
    row, column = jnp.unravel_index(jnp.argmax(x, -1), (2, 2))
    return jnp.stack([row, column], -1)


@each
def split_and_interleave(x):
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.stack([a, b], axis=-1).reshape(x.shape)


@each
def stop_gradient_of_norm(x):
    return x / lax.stop_gradient(1 + jnp.linalg.norm(x, axis=-1, keepdims=True))


@each
def labels_by_arange(x):
    rows, steps = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[1])[None]
    return jax.nn.log_softmax(x)[rows, steps, ids(x) % 4]


@each
def one_hot_by_arange(x):
    rows, steps = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[1])[None]
    return jnp.zeros((*x.shape[:2], 10)).at[rows, steps, ids(x)].set(1.0)


@each
def put_along_features(x):
    return jnp.put_along_axis(x, jnp.argmax(x, -1, keepdims=True), 0.0, axis=-1, inplace=False)


@each
def while_of_each_step(x):
    def halve(v):
        return lax.while_loop(lambda h: jnp.abs(h).max() > 1, lambda h: h * 0.5, v)

    return jax.vmap(jax.vmap(halve))(x)


@each
def switch_of_each_step(x):
    def f(v):
        return lax.switch(jnp.argmax(v) % 3, [jnp.sin, jnp.cos, jnp.tanh], v)

    return jax.vmap(jax.vmap(f))(x)


@each
def bits_of_each_element(x):
    return x.view(jnp.int16)


@each
def conjugate_gradients(x):
    def solve(v):
        return jax.scipy.sparse.linalg.cg(lambda u: 3 * u + 0.1 * jnp.roll(u, 1), v, maxiter=2)[0]

    return jax.vmap(jax.vmap(solve))(x)


@each
def pseudo_inverse(x):
    return jnp.linalg.pinv(x.reshape(*x.shape[:2], 2, 2)).reshape(x.shape)


@each
def gradient_of_pooling(x):
    def pool(v):
        return lax.reduce_window(v, -jnp.inf, lax.max, (1, 1, 2), (1, 1, 2), "VALID")

    return jax.grad(lambda v: (pool(v) ** 2).sum())(x)


@each
def covariance_of_features(x):
    return jax.vmap(jax.vmap(lambda v: jnp.cov(v.reshape(2, 2)).ravel()))(x)


@each
def loop_over_features_in_place(x):
    def f(v):
        return lax.fori_loop(0, 4, lambda i, h: h.at[i].add(h[(i + 1) % 4]), v)

    return jax.vmap(jax.vmap(f))(x)


@each
def associative_scan_over_features(x):
    return lax.associative_scan(jnp.add, x, axis=-1)


@each
def eight_bits(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return jnp.round(x / scale).astype(jnp.int8).astype(jnp.float32) * scale


@each
def selected_pieces(x):
    pieces = jnp.piecewise(x, [x < 0, x >= 0], [lambda v: -v, lambda v: v**2])
    return jnp.select([x > 1, x > 0], [x, pieces], 0.0)


@by_place
def dropout(x):
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return jnp.where(keep, x * 2, 0.0)


@by_place
def gaussian_noise(x):
    return x + jax.random.normal(jax.random.key(0), x.shape)


@by_place
def positions_by_arange(x):
    return x + jnp.arange(x.shape[1])[None, :, None]


@by_place
def learned_table_sliced(x):
    return x + jnp.asarray(np.arange(80.0, dtype="float32").reshape(20, 4))[: x.shape[1]]


@by_place
def learned_table_by_index(x):
    table = jnp.asarray(np.arange(80.0, dtype="float32").reshape(20, 4))
    return x + table[jnp.arange(x.shape[1])]


@by_place
def sinusoids(x):
    angles = jnp.arange(x.shape[1])[:, None] / 100.0 ** (jnp.arange(2) / 2)
    return x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


@by_place
def sinusoids_by_numpy(x):
    angles = np.arange(x.shape[1])[:, None] / 100.0 ** (np.arange(2) / 2)
    return x + np.concatenate([np.sin(angles), np.cos(angles)], -1).astype("float32")


@by_place
def rotary_by_hand(x):
    angle = jnp.arange(x.shape[1])[:, None] * jnp.array([1.0, 0.1])
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


@by_place
def relative_position(x):
    return x * jnp.linspace(0.0, 1.0, x.shape[1])[:, None]


@by_place
def divided_by_the_length(x):
    return x / x.shape[1]


@by_place
def scaled_by_the_rows(x):
    return x * (1 / x.shape[0])


@by_place
def first_step_zeroed(x):
    return x.at[:, 0].set(0.0)


@by_place
def last_step_doubled(x):
    return x.at[:, -1].multiply(2.0)


@by_place
def every_other_step(x):
    return jnp.where((jnp.arange(x.shape[1]) % 2 == 0)[:, None], x, 0)


@by_place
def position_in_a_scan(x):

    def step(i, s):
        return (i + 1, s * i)

    return lax.scan(step, 0.0, x.swapaxes(0, 1))[1].swapaxes(0, 1)


@by_place
def scanned_with_positions(x):

    def step(c, pair):
        return (c, pair[0] + pair[1])

    steps = (x.swapaxes(0, 1), jnp.arange(x.shape[1], dtype="float32"))
    return lax.scan(step, 0, steps)[1].swapaxes(0, 1)


@by_place
def constant_sum_of_the_length(x):
    return x * jnp.ones(x.shape[1]).sum()


@by_place
def last_position(x):
    return x + jnp.arange(x.shape[1])[-1]


@by_place
def passes_as_many_as_steps(x):
    return lax.fori_loop(0, x.shape[1], lambda i, h: h * 1.1, x)


@by_place
def carry_as_many_times_as_steps(x):
    count = lax.fori_loop(0, x.shape[1], lambda i, c: c * 0.9, jnp.float32(1))
    return x * count


@by_place
def while_as_many_as_steps(x):
    n = x.shape[1]
    return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * 0.9), (0, x))[1]


@by_place
def reversed_positions(x):
    return x + jnp.arange(x.shape[1])[::-1][:, None] * 0.5


@by_place
def constant_of_zeros_padded(x):
    return x * jnp.pad(jnp.ones(x.shape[1] - 1), (1, 0))[:, None]


@by_place
def flattened_position_table(x):
    b, t, d = x.shape
    return (x.reshape(b, t * d) + jnp.arange(t * d, dtype="float32")).reshape(x.shape)


@by_place
def keys_for_each_row(x):
    keys = jax.random.split(jax.random.key(0), x.shape[0])
    return jax.vmap(lambda k, row: row * jax.random.uniform(k, ()))(keys, x)


@by_place
def mask_of_a_fixed_count(x):
    return jnp.where((jnp.arange(x.shape[1]) < 5)[None, :, None], x, 0.0)


@by_place
def first_step_replaced_by_concatenate(x):
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, 1:]], axis=1)


@by_place
def last_step_replaced_by_pad(x):
    return jnp.pad(x[:, :-1], ((0, 0), (0, 1), (0, 0)))


@by_place
def shifts_that_lose_a_step(x):
    later = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return jnp.pad(later, ((0, 0), (0, 1), (0, 0)))[:, 1:]


@by_place
def first_step_lost_in_a_convolution(x):
    return lax.conv_general_dilated(
        x[:, 1:], W[None], (1,), ((1, 0),), dimension_numbers=("NWC", "WIO", "NWC")
    )


@of_rows
def batch_norm_of_each_step(x):
    return (x - x.mean(0)) / (x.std(0) + 1e-3)


@of_rows
def softmax_over_the_batch(x):
    return jax.nn.softmax(x, axis=0)


@of_rows
def contrastive(x):
    return jnp.einsum("btd,ctd->btc", x, x).sum(-1, keepdims=True) + x


@of_rows
def batch_rolled(x):
    return jnp.roll(x, 1, axis=0)


@of_rows
def batch_shuffled(x):
    return x[jax.random.permutation(jax.random.key(1), x.shape[0])]


@of_rows
def mixup(x):
    return 0.5 * x + 0.5 * x[::-1]


@of_rows
def first_row_for_all(x):
    return x - x[:1]


@of_rows
def accumulated_over_the_batch(x):
    return lax.scan(lambda c, row: (c + row, c), jnp.zeros(x.shape[1:]), x)[1]


@of_rows
def sorted_batch(x):
    return jnp.sort(x, axis=0)


@alarm("steps in a Python loop are another program for another length")
def python_loop_over_steps(x):
    return jnp.stack([jnp.tanh(x[:, i] @ W) for i in range(x.shape[1])], axis=1)


@alarm("which step a loop reads and writes is arithmetic, not structure", flagged=("place",))
def loop_that_writes_in_place(x):
    def body(i, y):
        return y.at[:, i].set(jnp.tanh(x[:, i]))

    return lax.fori_loop(0, x.shape[1], body, jnp.zeros_like(x))


@alarm("a dimension of steps that is split is not known to be put together again")
def pairs_of_steps_and_back(x):
    b, t, d = x.shape
    return jnp.sin(jnp.pad(x, ((0, 0), (0, t % 2), (0, 0))).reshape(b, -1, 2, d)).reshape(b, -1, d)[
        :, :t
    ]


@alarm("steps that are reversed twice are not known to be where they were")
def reversed_and_back(x):
    return jnp.flip(jnp.tanh(jnp.flip(x, 1)), 1)
