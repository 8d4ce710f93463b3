"""One table of instances: every public layer and combinator at least once, with an input.

Small sizes, different from axis to axis, so that no two axes are taken for one another.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl


class Instance(NamedTuple):
    layer: jl.Layer
    x: Any
    batch_axis: int | None = 0
    same_dtype: bool = True
    differences: bool = True  # whether its gradients are those of differences
    full: bool = False  # whether the row is for `make test-all` alone
    symbolic_axes: tuple[int, ...] | None = None  # by default those of the batch and of time

    def axes_without_size(self) -> tuple[int, ...]:
        """The axes of every input that ``check_layer`` exports without a size."""
        if self.symbolic_axes is not None:
            return self.symbolic_axes
        # STEPS, EPISODES and IDS; images have other sizes.
        timed = all(leaf.shape[:2] == (2, 5) for leaf in jax.tree.leaves(self.x))
        return (0, 1) if timed else (0,)


VECTOR = jl.spec((3, 4))
STEPS = jl.spec((2, 5, 4))
EPISODES = (STEPS, jl.spec((2, 5), bool))
IMAGE = jl.spec((2, 6, 5, 4))
VOLUME = jl.spec((2, 4, 5, 3, 2))
IDS = jl.spec((2, 5), jnp.int32)
SIGNAL = jl.spec((2, 12))
GRAPH = jl.Graph(
    nodes=jl.spec((4, 4)),
    senders=jl.spec((6,), jnp.int32),
    receivers=jl.spec((6,), jnp.int32),
    node_mask=jl.spec((4,), bool),
    edge_mask=jl.spec((6,), bool),
    graph_ids=jl.spec((4,), jnp.int32),
    graph_mask=jl.spec((2,), bool),
)


def _count_calls(f, x):
    calls = f.variable("calls", jax.nn.initializers.zeros, ())
    if f.train:
        calls.value = calls.value + 1
    return f.dense(x) + f.param("shift", jax.nn.initializers.normal(), (1, 3))


def _penalised(f, x):
    f.add_loss(0.1 * jnp.mean(x**2))
    return f.dense(x)


def _shared(f, x):
    noise = jax.random.normal(f.key(), (1, 4)) if f.train else jnp.zeros((1, 4))
    return f.dense(f.dense(x)) + noise.astype(x.dtype)


def _mgu_cell(features):
    """A cell of a user: the minimal gated unit (Zhou et al., 2016)."""
    normal = jax.nn.initializers.normal(0.5)

    def parameters(x):
        return {
            "kernel": (normal, (x.shape[-1], 2 * features)),
            "recurrent_kernel": (normal, (features, 2 * features)),
        }

    def step(params, x, h, carry):
        (forget_in, new_in), kernels = (
            jnp.split(values, 2, axis=-1) for values in (x, params["recurrent_kernel"])
        )
        forget = jax.nn.sigmoid(forget_in + h @ kernels[0])
        new = jnp.tanh(new_in + (forget * h) @ kernels[1])
        return {"h": (1 - forget) * carry["h"] + forget * new}

    def project(params, x):
        return x @ params["kernel"]

    return jl.Cell(parameters, {"h": features}, step, project=project)


ONE_STEP = (VECTOR, {"h": jl.spec((3, 2))})
ONE_STEP_OF_LSTM = (VECTOR, {"h": jl.spec((3, 2)), "c": jl.spec((3, 2))})

EXPERT = jl.serial(jl.Dense(6), jnp.tanh, jl.Dense(3))

INSTANCES = {
    "dense": Instance(jl.Dense(3), VECTOR),
    "dense of steps, no bias": Instance(jl.Dense(3, bias=False), STEPS, full=True),
    "dense over two axes, two of features": Instance(
        jl.Dense((2, 3), axis=(1, -1)), IMAGE, full=True
    ),
    "affine": Instance(jl.Affine(), STEPS),
    "affine, scale alone": Instance(jl.Affine(bias=False), VECTOR, full=True),
    "affine, bias alone": Instance(jl.Affine(scale=False), VECTOR, full=True),
    "affine of other axes": Instance(jl.Affine(feature_axes=(-1, 2)), IMAGE, full=True),
    "bilinear": Instance(jl.Bilinear(3), (STEPS, jl.spec((2, 5, 3)))),
    "einsum": Instance(jl.Einsum("...d,dhk->...hk", h=2, k=3, bias_axes="hk"), STEPS),
    "einsum of a group each": Instance(
        jl.Einsum("bhwg,gk->bhwgk", k=2, bias_axes="k"), IMAGE, full=True
    ),
    "prelu": Instance(jl.PReLU(), STEPS),
    "prelu, a slope each": Instance(jl.PReLU(feature_axes=-1), IMAGE, full=True),
    "rrelu": Instance(jl.RReLU(0.1, 0.5), STEPS),
    "snake": Instance(jl.Snake(), STEPS),
    "embedding": Instance(jl.Embedding(7, 3), IDS),
    # Ids are 0 and 1: a row that gets no gradient has none that differences would find.
    "embedding, padding, in a ball": Instance(
        jl.Embedding(7, 3, padding_id=-2, max_norm=0.5, p=3.0), IDS, full=True
    ),
    "embedding bag": Instance(jl.EmbeddingBag(7, 3), IDS),
    "embedding bag, a bag at each step, weights": Instance(
        jl.EmbeddingBag(7, 3, mode="sum"),
        {"ids": jl.spec((2, 5, 4), jnp.int32), "weights": STEPS},
        same_dtype=False,
        full=True,
    ),
    "embedding bag of flat ids": Instance(
        jl.EmbeddingBag(7, 3, mode="max"),
        {"ids": jl.spec((6,), jnp.int32), "offsets": np.array([0, 2, 2], "int32")},
        None,
        full=True,
    ),
    # What it passes straight through are gradients that differences do not have.
    "vector quantizer": Instance(jl.VectorQuantizer(6), STEPS, differences=False),
    "vector quantizer, moving averages": Instance(
        jl.VectorQuantizer(6, decay=0.9),
        STEPS,
        differences=False,
        full=True,
    ),
    "tied": Instance(jl.tied(jl.Embedding(7, 3), jl.LSTM(3), bias=True, soft_cap=2.0), IDS),
    "position embedding": Instance(jl.PositionEmbedding(32), STEPS),
    "sinusoidal positions": Instance(jl.SinusoidalPositions(), jl.spec((2, 3, 4, 6))),
    "conv 1-D causal": Instance(jl.Conv(3, 2, padding="CAUSAL", dilation=2), STEPS),
    "conv 2-D": Instance(jl.Conv(3, (3, 2), strides=(2, 1), padding="SAME"), IMAGE),
    "conv 2-D in groups": Instance(
        jl.Conv(4, 3, groups=2, padding=((1, 0), (0, 2))), IMAGE, full=True
    ),
    "conv, causal in time": Instance(
        jl.Conv(3, (2, 3), padding=("CAUSAL", "CIRCULAR"), strides=(2, 1)), jl.spec((2, 4, 5, 4))
    ),
    "conv, reverse causal": Instance(jl.Conv(3, 3, padding="REVERSE_CAUSAL"), STEPS, full=True),
    "conv, full": Instance(jl.Conv(3, 3, padding="FULL", strides=2), STEPS, full=True),
    "conv, same lower": Instance(jl.Conv(3, 2, padding="SAME_LOWER"), STEPS, full=True),
    "conv, reflected": Instance(jl.Conv(3, (3, 4), padding="REFLECT"), IMAGE, full=True),
    "conv, replicated": Instance(
        jl.Conv(3, 3, padding=((1, 2),), padding_mode="replicate"), STEPS, full=True
    ),
    "conv, circular": Instance(jl.Conv(3, 3, padding="CIRCULAR", dilation=2), STEPS, full=True),
    "conv, dilated input": Instance(
        jl.Conv(3, 3, input_dilation=2, strides=(3, 1), padding="SAME"),
        IMAGE,
        full=True,
    ),
    "conv of steps, dilated input": Instance(
        jl.Conv(3, 3, input_dilation=3, padding=1), STEPS, full=True
    ),
    "conv, masked kernel": Instance(
        jl.Conv(3, 3, padding="SAME", kernel_mask=np.tri(3)[..., None, None]), IMAGE
    ),
    "conv 3-D": Instance(jl.Conv(3, 2, bias=False), VOLUME, full=True),
    "transposed conv": Instance(jl.ConvTranspose(3, (2, 3), strides=2, padding="SAME"), IMAGE),
    "transposed conv, causal": Instance(
        jl.ConvTranspose(3, 5, strides=2, padding="CAUSAL"), STEPS, full=True
    ),
    "transposed conv, causal, short": Instance(
        jl.ConvTranspose(3, (2, 3), strides=(3, 2), padding=("CAUSAL", "SAME")), IMAGE, full=True
    ),
    "transposed conv, circular": Instance(
        jl.ConvTranspose(3, 4, strides=2, padding="CIRCULAR"), STEPS, full=True
    ),
    "transposed conv, cropped": Instance(
        jl.ConvTranspose(
            4, 3, strides=2, cropping=1, output_padding=1, groups=2, transpose_kernel=True
        ),
        IMAGE,
        full=True,
    ),
    "transposed conv in groups": Instance(
        jl.ConvTranspose(4, 3, groups=2, dilation=2), STEPS, full=True
    ),
    "local conv": Instance(jl.LocalConv(3, (3, 2), strides=(2, 1), padding="SAME"), IMAGE),
    "local conv of steps": Instance(
        jl.LocalConv(3, 2, padding="CIRCULAR", bias=False), STEPS, full=True, symbolic_axes=(0,)
    ),
    "deformable conv": Instance(
        jl.DeformableConv(3, (2, 3), padding="SAME"),
        (jl.spec((2, 4, 3, 2)), jl.spec((2, 4, 3, 12))),
    ),
    "deformable conv, modulated, of steps": Instance(
        jl.DeformableConv(4, 3, groups=2, padding=((2, 0),)),
        (STEPS, jl.spec((2, 5, 6)), jl.spec((2, 5, 6))),
        full=True,
    ),
    "unfold": Instance(jl.Unfold((2, 3), strides=(1, 2), padding="SAME"), IMAGE),
    "unfold, causal": Instance(jl.Unfold(2, dilation=2, padding=((2, 0),)), STEPS, full=True),
    "fold": Instance(jl.Fold((2, 1), strides=(2, 1)), IMAGE),
    "fold, overlapping": Instance(jl.Fold(4, strides=2, cropping=((0, 2),)), STEPS, full=True),
    "fold to sizes": Instance(
        jl.Fold(2, sizes=(12, 11), strides=2, cropping=((1, 0), (0, 0))), IMAGE, full=True
    ),
    "max pool": Instance(jl.MaxPool(2), IMAGE),
    "max pool, causal in time": Instance(
        jl.MaxPool((2, 3), strides=1, padding=("CAUSAL", "SAME_LOWER")), IMAGE, full=True
    ),
    "max pool, overlapping": Instance(jl.MaxPool(3, strides=2, padding="SAME"), IMAGE, full=True),
    "average pool": Instance(jl.AvgPool((2, 3), strides=1, padding="SAME"), IMAGE),
    "average pool, padded": Instance(
        jl.AvgPool(2, padding=1, count_include_pad=True), STEPS, full=True
    ),
    "max pool, dilated": Instance(
        jl.MaxPool((2, 3), strides=2, padding=(0, 1), dilation=2, ceil_mode=True),
        IMAGE,
        full=True,
    ),
    "average pool, to the last pixel": Instance(
        jl.AvgPool(2, strides=3, padding=1, ceil_mode=True, count_include_pad=True),
        IMAGE,
        full=True,
    ),
    "max pool with indices, and back": Instance(
        jl.serial(jl.MaxPool(3, strides=2, padding=1, indices=True), jl.MaxUnpool(sizes=(6, 5))),
        IMAGE,
    ),
    "adaptive average pool": Instance(jl.AdaptiveAvgPool((4, None)), IMAGE),
    "adaptive max pool": Instance(jl.AdaptiveMaxPool((4, 2)), IMAGE),
    "adaptive max pool, divisible": Instance(jl.AdaptiveMaxPool((3, 1)), IMAGE, full=True),
    "min pool": Instance(jl.MinPool((2, 3), strides=1, padding="SAME"), IMAGE),
    "sum pool": Instance(jl.SumPool(2, padding=1), STEPS),
    "lp pool": Instance(jl.LpPool(3, 2), IMAGE),
    "pool of products": Instance(
        jl.Pool(jnp.multiply, 1, (2, 3), strides=1, padding=1, dilation=(1, 2)), IMAGE
    ),
    "blur pool": Instance(jl.BlurPool((3, 4), strides=(2, 1)), IMAGE),
    "fractional max pool": Instance(jl.FractionalMaxPool(2, sizes=(4, 3)), IMAGE),
    "attention pool": Instance(jl.AttentionPool(), STEPS),
    "attention pool, additive": Instance(jl.AttentionPool(2, hidden_features=3), IMAGE, full=True),
    "global min pool": Instance(jl.GlobalMinPool(), IMAGE),
    "global sum pool": Instance(jl.GlobalSumPool(), IMAGE),
    "global average pool": Instance(jl.GlobalAvgPool(), IMAGE),
    "global max pool": Instance(jl.GlobalMaxPool(), IMAGE),
    "resize": Instance(jl.Resize(factor=2, method="linear"), IMAGE),
    "resize, cubic, smaller": Instance(
        jl.Resize((3, 8), method="cubic", antialias=True), IMAGE, full=True
    ),
    "resize by a fraction": Instance(
        jl.Resize(factor=(1.3, 0.7), method="linear"), IMAGE, full=True
    ),
    "grid sample": Instance(jl.GridSample(), (IMAGE, jl.spec((2, 3, 2)))),
    "grid sample, cubic, reflected": Instance(
        jl.GridSample(method="cubic", mode="reflect"), (IMAGE, jl.spec((2, 2, 3, 2))), full=True
    ),
    "roi align": Instance(jl.RoIAlign((3, 2)), (IMAGE, jl.spec((2, 3, 4)))),
    "pad": Instance(jl.Pad((1, (0, 2))), IMAGE),
    "pad, reflected": Instance(jl.Pad(2, mode="reflect"), IMAGE, full=True),
    "crop": Instance(jl.Crop(((1, 0), 2)), IMAGE),
    "pixel shuffle": Instance(jl.PixelShuffle((2, 1)), IMAGE),
    "pixel unshuffle": Instance(jl.PixelUnshuffle((3, 5)), IMAGE),
    "channel shuffle": Instance(jl.ChannelShuffle(2), STEPS),
    "flatten": Instance(jl.Flatten(), IMAGE),
    "flatten each step": Instance(jl.Flatten(2), jl.spec((2, 5, 3, 4)), full=True),
    "rearrange": Instance(jl.Rearrange("b t (h d) -> b t d h", h=2), STEPS),
    "rearrange, patches": Instance(
        jl.Rearrange("b (h p) w c -> b (h w) (p c)", p=2), IMAGE, full=True
    ),
    "reshape": Instance(jl.Reshape((10, -1)), IMAGE),
    "frame": Instance(jl.Frame(3, strides=2), STEPS),
    "frame, causal": Instance(
        jl.Frame(3, strides=2, padding="CAUSAL"), jl.spec((2, 6, 3)), full=True
    ),
    "frame, reflected": Instance(
        jl.Frame(4, strides=3, padding="CENTER", padding_mode="reflect"), SIGNAL, full=True
    ),
    "overlap add": Instance(jl.OverlapAdd(2), jl.spec((2, 5, 3, 4))),
    "overlap add, causal": Instance(
        jl.OverlapAdd(2, padding="CAUSAL"), jl.spec((2, 5, 3)), full=True
    ),
    "stft": Instance(
        jl.STFT(4, strides=2, window="hamming", padding="CAUSAL", output="real_imag"), SIGNAL
    ),
    "stft, power": Instance(
        jl.STFT(4, strides=3, fft_length=6, window="hamming", output="power", scaling="density"),
        SIGNAL,
        full=True,
    ),
    "inverse stft": Instance(
        jl.InverseSTFT(4, strides=2, window="hamming", padding="CENTER"), jl.spec((2, 5, 6))
    ),
    "inverse stft, causal": Instance(
        jl.InverseSTFT(4, strides=2, window="hamming", padding="CAUSAL"),
        jl.spec((2, 5, 6)),
        full=True,
    ),
    "mel spectrogram": Instance(
        jl.MelSpectrogram(3, 16.0, 8, strides=2, window="hamming", padding="SAME"), SIGNAL
    ),
    "mel spectrogram, causal, decibels": Instance(
        jl.MelSpectrogram(2, 16.0, 4, strides=2, padding="CAUSAL", log="db", power=1),
        SIGNAL,
        full=True,
    ),
    "fir filter": Instance(jl.FIRFilter([0.5, -0.3, 0.2], trainable=True), STEPS),
    "fir filter, strided": Instance(
        jl.FIRFilter([0.5, -0.3, 0.2], strides=2, padding="SAME"), SIGNAL, full=True
    ),
    "iir filter": Instance(jl.IIRFilter([0.5, -0.3, 0.2], [1.0, -0.6, 0.1, 0.05]), SIGNAL),
    "biquad filter": Instance(
        jl.BiquadFilter([[0.5, 0.2, 0.1, 1, -0.5, 0.1], [1, 0, 0.3, 2, 0.3, 0.2]]), STEPS
    ),
    "resample": Instance(jl.Resample(3, 2, taps=[0.1, 0.5, 1.0, 0.6, 0.2]), STEPS),
    "delay": Instance(jl.Delay(2), STEPS),
    "lookahead": Instance(jl.Lookahead(2), STEPS),
    "downsample": Instance(jl.Downsample(2), jl.spec((2, 6, 3))),
    "graph conv": Instance(jl.GraphConv(3), GRAPH, None),
    "graph conv, mean of weighted edges": Instance(
        jl.GraphConv(5, normalization="mean", edge_weights=True, self_loops=False, bias=False),
        GRAPH._replace(edges=jl.spec((6,))),
        None,
        full=True,
    ),
    "graph attention": Instance(jl.GraphAttention(2, 3, rate=0.3), GRAPH, None),
    "graph attention, the first": Instance(
        jl.GraphAttention(2, 3, dynamic=False, concat=False, self_loops=False),
        GRAPH,
        None,
        full=True,
    ),
    "graph attention, features of edges": Instance(
        jl.GraphAttention(2, 3, edge_features=True),
        GRAPH._replace(edges=jl.spec((6, 2))),
        None,
        full=True,
    ),
    "message passing": Instance(
        jl.MessagePassing(
            jl.serial(jl.concat(), jl.Dense(3), jnp.tanh), jl.serial(jl.concat(), jl.Dense(2))
        ),
        GRAPH._replace(edges=jl.spec((6, 2))),
        None,
    ),
    "message passing, largest": Instance(
        jl.MessagePassing(jl.serial(jl.add(), jl.Dense(3)), reduce="max"), GRAPH, None, full=True
    ),
    "on nodes": Instance(jl.on_nodes(jl.serial(jl.Dense(3), jl.BatchNorm())), GRAPH, None),
    "graph pool": Instance(jl.GraphPool(), GRAPH, None),
    "dropout": Instance(jl.Dropout(0.4), STEPS),
    "dropout, the same at all steps": Instance(jl.Dropout(0.4, shared_axes=1), STEPS, full=True),
    "dropout, shared by rows and pixels": Instance(
        jl.Dropout(0.4, shared_axes=(0, -2)), IMAGE, full=True
    ),
    "spatial dropout": Instance(jl.SpatialDropout(0.4), IMAGE),
    "alpha dropout": Instance(jl.AlphaDropout(0.4), STEPS),
    "alpha dropout of channels": Instance(
        jl.AlphaDropout(0.4, whole_channels=True), IMAGE, full=True
    ),
    "gaussian dropout": Instance(jl.GaussianDropout(0.4), STEPS),
    "gaussian noise": Instance(jl.GaussianNoise(0.4), STEPS),
    "drop block": Instance(jl.DropBlock(0.4, (2, 3)), IMAGE),
    "stochastic depth": Instance(jl.StochasticDepth(0.4), STEPS),
    "stochastic depth, the whole batch": Instance(
        jl.StochasticDepth(0.4, whole_batch=True), VECTOR, full=True
    ),
    "activity penalty": Instance(jl.ActivityPenalty(l1=0.1, l2=0.2), STEPS),
    "batch norm": Instance(jl.BatchNorm(momentum=0.9), IMAGE),
    "batch norm, debiased": Instance(jl.BatchNorm(debiased=True, unbiased=True), STEPS, full=True),
    "batch norm, mean of batches": Instance(jl.BatchNorm(momentum=None), VECTOR, full=True),
    "batch norm of rows and channels": Instance(
        jl.BatchNorm(feature_axes=(1, 3)), IMAGE, full=True
    ),
    # With room for r and d, whose gradients it leaves out, differences would not fit (law 6).
    "batch renorm": Instance(jl.BatchRenorm(max_scale=1.0, max_shift=0.0), STEPS),
    "batch norm, plain": Instance(jl.BatchNorm(scale=False, bias=False), VECTOR, full=True),
    "layer norm": Instance(jl.LayerNorm(), STEPS),
    "layer norm over axes": Instance(
        jl.LayerNorm(axis=(-2, -1), feature_axes=-1),
        IMAGE,
        symbolic_axes=(0,),
        full=True,
    ),
    "layer norm of images": Instance(jl.LayerNorm(axis=(-2, -1)), IMAGE, full=True),
    "layer norm, plain": Instance(jl.LayerNorm(scale=False, bias=False), VECTOR, full=True),
    "group norm": Instance(jl.GroupNorm(2), IMAGE),
    "group norm, plain": Instance(jl.GroupNorm(1, scale=False, bias=False), STEPS, full=True),
    "group norm by size": Instance(jl.GroupNorm(group_size=2), STEPS, full=True),
    "instance norm": Instance(jl.InstanceNorm(), IMAGE),
    "instance norm, running": Instance(
        jl.InstanceNorm(running_statistics=True, unbiased=True),
        STEPS,
        full=True,
    ),
    "filter response norm": Instance(jl.FilterResponseNorm(), IMAGE),
    "filter response norm, learned epsilon": Instance(
        jl.FilterResponseNorm(learned_epsilon=True, threshold=False), STEPS, full=True
    ),
    "data norm": Instance(jl.DataNorm(), STEPS),
    "data norm, inverse": Instance(jl.DataNorm(feature_axes=(2, 3), invert=True), IMAGE, full=True),
    "film": Instance(jl.FiLM(kernel_init=jax.nn.initializers.normal()), (STEPS, jl.spec((2, 3)))),
    "film of steps": Instance(jl.FiLM(), (STEPS, jl.spec((2, 5, 3))), full=True),
    "unit norm": Instance(jl.UnitNorm(), STEPS),
    "unit norm of images": Instance(jl.UnitNorm((1, 2)), IMAGE, full=True),
    "local response norm": Instance(jl.LocalResponseNorm(3, alpha=0.5), IMAGE),
    "rms norm": Instance(jl.RMSNorm(), STEPS),
    "rms norm over axes": Instance(jl.RMSNorm(axis=2, feature_axes=(2, 3)), IMAGE, full=True),
    "rms norm, one scale": Instance(jl.RMSNorm(feature_axes=()), STEPS, full=True),
    "rms norm, plain": Instance(jl.RMSNorm(scale=False), VECTOR, full=True),
    "self-attention": Instance(jl.SelfAttention(2), STEPS),
    "self-attention in blocks, heads that share": Instance(
        jl.SelfAttention(
            4, causal=True, num_kv_heads=2, head_dim=3, features=6, bias=False, method="blocks"
        ),
        STEPS,
        full=True,
        symbolic_axes=(0,),  # blocks are counted
    ),
    "self-attention, rotary, in a window": Instance(
        jl.SelfAttention(2, causal=True, window=3, rope=100.0, soft_cap=2.0),
        STEPS,
        full=True,
    ),
    "self-attention, alibi": Instance(
        jl.SelfAttention(2, causal=True, alibi=True), STEPS, full=True
    ),
    "self-attention, a mask and a bias": Instance(
        jl.SelfAttention(2, weights=True),
        {"x": STEPS, "mask": jl.spec((2, 1, 5), bool), "bias": jl.spec((2, 2, 5, 5))},
        full=True,
    ),
    "self-attention, weights dropped, a gate": Instance(
        jl.SelfAttention(
            2, causal=True, sinks=True, gate=True, qk_norm="rms", dropout_rate=0.3, value_dim=3
        ),
        STEPS,
        full=True,
    ),
    "self-attention, distances in a table": Instance(
        jl.SelfAttention(2, window=(2, 1), relative=jl.T5Bias(8, 6)),
        STEPS,
        full=True,
    ),
    "self-attention, distances of keys and values": Instance(
        jl.SelfAttention(2, causal=True, relative=jl.ShawPositions(2)), STEPS, full=True
    ),
    "self-attention, keys of another sequence": Instance(
        jl.SelfAttention(2, causal=True, window=3, rope=True),
        {"x": STEPS, "memory": jl.spec((2, 5, 6))},
        full=True,
    ),
    "self-attention, waves of distances": Instance(
        jl.SelfAttention(2, causal=True, relative=jl.TransformerXLPositions(3)),
        STEPS,
        full=True,
    ),
    "self-attention, a pattern": Instance(
        jl.SelfAttention(2, pattern=lambda q, k: q // 2 == k // 2, rope=jl.Rope(interleaved=True)),
        STEPS,
        full=True,
    ),
    "transformer block": Instance(
        jl.TransformerBlock(
            jl.SelfAttention(2, causal=True), jl.serial(jl.Dense(6), jax.nn.gelu, jl.Dense(4))
        ),
        STEPS,
    ),
    "transformer block, the norm after it": Instance(
        jl.TransformerBlock(
            jl.SelfAttention(2), jl.Dense(4), norm=jl.RMSNorm(), norm_first=False, dropout_rate=0.3
        ),
        STEPS,
        full=True,
    ),
    "transformer block, parallel": Instance(
        jl.TransformerBlock(jl.SelfAttention(2), jl.Dense(4), parallel=True, dropout_rate=0.3),
        {"x": STEPS, "mask": jl.spec((2, 1, 5), bool)},
        full=True,
    ),
    "transformer block of a decoder": Instance(
        jl.TransformerDecoderBlock(
            jl.SelfAttention(2, causal=True), jl.CrossAttention(2), jl.Dense(4), dropout_rate=0.3
        ),
        (STEPS, jl.spec((2, 3, 6))),
    ),
    "additive attention": Instance(jl.AdditiveAttention(3), (STEPS, jl.spec((2, 3, 6)))),
    "additive attention, no maps": Instance(
        jl.AdditiveAttention(dropout_rate=0.3, weights=True),
        (STEPS, jl.spec((2, 3, 4)), jl.spec((2, 3, 6))),
        full=True,
    ),
    "attention to places": Instance(jl.GMMAttention(2, 3, 4), (STEPS, jl.spec((2, 3, 6)))),
    "latent attention": Instance(jl.LatentAttention(2, 3, rope_dim=2, causal=True), STEPS),
    "latent attention, queries from latents": Instance(
        jl.LatentAttention(2, 3, rope_dim=4, query_latent_dim=5, value_dim=3), STEPS, full=True
    ),
    "cross-attention": Instance(jl.CrossAttention(2), (STEPS, jl.spec((2, 3, 6)))),
    "cross-attention, keys and values": Instance(
        jl.CrossAttention(2, weights=True),
        (STEPS, jl.spec((2, 3, 6)), jl.spec((2, 3, 7))),
        full=True,
    ),
    "lstm": Instance(jl.LSTM(3), STEPS),
    "lstm, last step, reversed": Instance(
        jl.LSTM(3, return_sequences=False, reverse=True, bias=False), STEPS, full=True
    ),
    "gru": Instance(jl.GRU(3), STEPS),
    "gru, last step, reversed": Instance(
        jl.GRU(3, return_sequences=False, reverse=True, bias=False), STEPS, full=True
    ),
    "lstm and gru with other activations": Instance(
        jl.serial(
            jl.LSTM(3, activation=jax.nn.softplus, recurrent_activation=jnp.tanh),
            jl.GRU(2, activation=jnp.sin, recurrent_activation=jax.nn.soft_sign),
        ),
        STEPS,
        full=True,
    ),
    "mgu": Instance(jl.MGU(3), STEPS),
    "mgu, no reset gate, reversed": Instance(
        jl.MGU(3, reset_gate=False, bias=False, reverse=True, trainable_carry=True),
        EPISODES,
        full=True,
    ),
    "simple rnn": Instance(jl.SimpleRNN(3), STEPS),
    "simple rnn, last step, reversed": Instance(
        jl.SimpleRNN(3, return_sequences=False, reverse=True, activation=jax.nn.relu),
        STEPS,
        full=True,
    ),
    "lstm with all options": Instance(
        jl.LSTM(
            3,
            trainable_carry=True,
            peephole=True,
            projection=2,
            layer_norm=True,
            clip=1.5,
            cell_clip=0.5,
            zoneout=0.2,
            recurrent_dropout=0.3,
        ),
        STEPS,
        full=True,
    ),
    "lstm, coupled gates, resets": Instance(
        jl.LSTM(3, coupled=True, peephole=True, trainable_carry=True), EPISODES, full=True
    ),
    "gru with options": Instance(
        jl.GRU(3, reset_after=False, layer_norm=True, zoneout=0.2, recurrent_dropout=0.3),
        STEPS,
        full=True,
    ),
    "simple rnn with options": Instance(
        jl.SimpleRNN(3, layer_norm=True, clip=1.0, zoneout=0.2, trainable_carry=True),
        STEPS,
        full=True,
    ),
    "min gru": Instance(jl.MinGRU(3, trainable_carry=True), EPISODES),
    "min lstm": Instance(jl.MinLSTM(3, activation=jax.nn.softplus), EPISODES),
    "ind rnn": Instance(jl.IndRNN(3, activation=jnp.tanh, recurrent_dropout=0.3), STEPS),
    "sru": Instance(jl.SRU(3, peephole_init=jax.nn.initializers.normal()), STEPS),
    "sru without peepholes": Instance(
        jl.SRU(4, peephole=False, activation=jnp.tanh, trainable_carry=True, reverse=True),
        EPISODES,
        full=True,
    ),
    "qrnn": Instance(jl.QRNN(3, 3), STEPS),
    "qrnn, input gate, resets": Instance(
        jl.QRNN(3, 2, pooling="ifo", trainable_carry=True, return_sequences=False),
        EPISODES,
        full=True,
    ),
    "qrnn, forget gate alone, reversed": Instance(
        jl.QRNN(3, pooling="f", bias=False, reverse=True), STEPS, full=True
    ),
    "selective ssm": Instance(jl.SelectiveSSM(3), STEPS),
    "selective ssm, reversed, resets": Instance(
        jl.SelectiveSSM(2, step_rank=3, reverse=True, return_sequences=False), EPISODES, full=True
    ),
    "mamba": Instance(jl.Mamba(3, kernel_size=3), STEPS),
    "mamba, resets": Instance(
        jl.Mamba(2, expand=3, kernel_size=1, features=3, bias=True, conv_bias=False),
        EPISODES,
        full=True,
    ),
    "mamba2": Instance(jl.Mamba2(3, head_dim=4, kernel_size=2), STEPS),
    "mamba2, groups, resets": Instance(
        jl.Mamba2(2, head_dim=2, num_groups=2, features=3, bias=True, conv_bias=False),
        EPISODES,
        full=True,
    ),
    "s5": Instance(jl.S5(3), STEPS),
    "s5, no skip, resets": Instance(
        jl.S5(2, features=3, skip=False, reverse=True), EPISODES, full=True
    ),
    "linear attention": Instance(jl.LinearAttention(2), STEPS),
    "linear attention, reversed, resets": Instance(
        jl.LinearAttention(
            2, head_dim=3, features=5, feature_map=jnp.exp, bias=False, reverse=True
        ),
        EPISODES,
        full=True,
    ),
    "mlstm": Instance(jl.MLSTM(4, 2), STEPS),
    "mlstm, last step, resets": Instance(
        jl.MLSTM(3, bias=False, return_sequences=False), EPISODES, full=True
    ),
    "slstm": Instance(jl.SLSTM(4, 2, recurrent_dropout=0.3), STEPS),
    "gated delta net": Instance(jl.GatedDeltaNet(2, kernel_size=2), STEPS),
    "gated delta net, no convolution, resets": Instance(
        jl.GatedDeltaNet(2, head_dim=3, value_dim=2, features=3, kernel_size=None, reverse=True),
        EPISODES,
        full=True,
    ),
    "linear recurrence": Instance(jl.LinearRecurrence(3), STEPS),
    "linear recurrence, the unit alone": Instance(
        jl.LinearRecurrence(4, project=False, bias=False, return_sequences=False), STEPS, full=True
    ),
    "convolutional lstm": Instance(jl.ConvLSTM(2, 3), jl.spec((2, 3, 4, 2))),
    "convolutional lstm, strided": Instance(
        jl.ConvLSTM(2, (2, 1), strides=(2, 1), padding=((1, 0), (0, 1))),
        jl.spec((2, 3, 4, 3, 2)),
        full=True,
    ),
    "convolutional gru": Instance(jl.ConvGRU(2, 2, padding="VALID"), jl.spec((2, 3, 4, 2))),
    "convolutional gru, reset before": Instance(
        jl.ConvGRU(2, 2, dilation=2, reset_after=False, return_sequences=False, zoneout=0.2),
        jl.spec((2, 3, 4, 2)),
        full=True,
    ),
    "rnn of a user's cell": Instance(
        jl.RNN(_mgu_cell(3), trainable_carry=True, zoneout=0.2, recurrent_dropout=0.3), EPISODES
    ),
    "rnn of a linear cell, zoneout": Instance(
        jl.RNN(jl.MinGRUCell(3), zoneout=0.2), STEPS, full=True
    ),
    "a user's cell": Instance(_mgu_cell(2), ONE_STEP),
    "lstm cell": Instance(jl.LSTMCell(2), ONE_STEP_OF_LSTM),
    "gru cell": Instance(jl.GRUCell(2), ONE_STEP),
    "mgu cell": Instance(jl.MGUCell(2), ONE_STEP),
    "simple rnn cell": Instance(jl.SimpleRNNCell(2), ONE_STEP),
    # The carry of linear recurrences is float32 at least.
    "min gru cell": Instance(jl.MinGRUCell(2), ONE_STEP, same_dtype=False),
    "min lstm cell": Instance(jl.MinLSTMCell(2), ONE_STEP, same_dtype=False),
    "ind rnn cell": Instance(jl.IndRNNCell(2), ONE_STEP),
    "sru cell": Instance(jl.SRUCell(2), ONE_STEP_OF_LSTM, same_dtype=False),
    "qrnn cell": Instance(jl.QRNNCell(2), ONE_STEP_OF_LSTM, same_dtype=False),
    "selective ssm cell": Instance(
        jl.SelectiveSSMCell(2),
        (VECTOR, {"y": VECTOR, "state": jl.spec((3, 4, 2))}),
        same_dtype=False,
    ),
    "mamba cell": Instance(
        jl.MambaCell(2, expand=1, kernel_size=2),
        (VECTOR, {"y": VECTOR, "state": jl.spec((3, 4, 2)), "context": jl.spec((3, 1, 4))}),
        same_dtype=False,
    ),
    "mamba2 cell": Instance(
        jl.Mamba2Cell(2, head_dim=2, expand=1, kernel_size=2),
        (
            VECTOR,
            {"y": VECTOR, "state": jl.spec((3, 2, 2, 2)), "context": jl.spec((3, 1, 8))},
        ),
        same_dtype=False,
    ),
    "s5 cell": Instance(
        jl.S5Cell(3), (VECTOR, {"y": VECTOR, "state": jl.spec((3, 3, 2))}), same_dtype=False
    ),
    "linear attention cell": Instance(
        jl.LinearAttentionCell(2),
        (VECTOR, {"y": VECTOR, "state": jl.spec((3, 2, 2, 3))}),
        same_dtype=False,
    ),
    "mlstm cell": Instance(
        jl.MLSTMCell(2),
        (
            VECTOR,
            {"h": jl.spec((3, 2)), "state": jl.spec((3, 1, 2, 3)), "m": jl.spec((3, 1))},
        ),
        same_dtype=False,
    ),
    "slstm cell": Instance(
        jl.SLSTMCell(2), (VECTOR, dict.fromkeys("hcnm", jl.spec((3, 2)))), same_dtype=False
    ),
    "gated delta net cell": Instance(
        jl.GatedDeltaNetCell(2, kernel_size=None),
        (VECTOR, {"y": VECTOR, "state": jl.spec((3, 2, 2, 2))}),
        same_dtype=False,
    ),
    "linear recurrence cell": Instance(jl.LinearRecurrenceCell(2), ONE_STEP, same_dtype=False),
    "convolutional lstm cell": Instance(
        jl.ConvLSTMCell(2, 3),
        (jl.spec((2, 4, 3)), {"h": jl.spec((2, 4, 2)), "c": jl.spec((2, 4, 2))}),
    ),
    "convolutional gru cell": Instance(
        jl.ConvGRUCell(2, 3), (jl.spec((2, 4, 3)), {"h": jl.spec((2, 4, 2))})
    ),
    "a function": Instance(jl.lift(jnp.tanh), VECTOR),
    "a function of a sequence": Instance(jl.on_sequence(lambda x: 2 * x), STEPS),
    "causal": Instance(
        jl.causal(
            lambda params, state, x, *, capacity: {},
            lambda params, state, carry, x, *, key, train: (2 * x, {}),
        ),
        STEPS,
    ),
    "stateless": Instance(
        jl.stateless(
            lambda key, x: {"scale": jnp.ones(x.shape[-1:])},
            lambda params, x: x * jnp.broadcast_to(params["scale"].astype(x.dtype), x.shape),
        ),
        VECTOR,
    ),
    "serial": Instance(
        jl.serial(jl.Dense(5), jnp.tanh, jl.Dropout(0.3), jl.BatchNorm(), head=jl.Dense(2)), VECTOR
    ),
    "serial of nothing": Instance(jl.serial(), VECTOR),
    "parallel": Instance(
        jl.parallel(jl.Dense(3), jl.LSTM(2)), (VECTOR, jl.spec((3, 5, 4))), full=True
    ),
    "parallel, named": Instance(
        jl.parallel(a=jl.Dense(3), b=jl.Dropout(0.5)), {"a": VECTOR, "b": VECTOR}
    ),
    "branch": Instance(jl.branch(jl.Dense(3), jnp.sin), VECTOR),
    "concat": Instance(jl.concat(jl.Dense(3), jnp.cos, axis=-1), VECTOR),
    "concat of inputs": Instance(jl.concat(axis=1), (VECTOR, VECTOR), full=True),
    "add": Instance(jl.add(jl.Dense(3), jl.Dense(3)), VECTOR),
    "multiply": Instance(
        jl.multiply(jl.Dense(3), gate=jl.serial(jl.Dense(3), jax.nn.sigmoid)), VECTOR
    ),
    "average": Instance(jl.average(jl.Dense(3), jl.Dense(3), jl.Dense(3)), VECTOR),
    "maximum": Instance(jl.maximum(jl.Dense(3), jl.Dense(3)), VECTOR),
    "minimum": Instance(jl.minimum(), (VECTOR, VECTOR)),
    "residual": Instance(jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(4))), VECTOR),
    "residual with shortcut": Instance(
        jl.residual(jl.Dense(3), jl.Dense(3, bias=False)), VECTOR, full=True
    ),
    "repeat": Instance(
        jl.repeat(jl.serial(jl.Dense(4), jl.BatchNorm(), jl.Dropout(0.2), jnp.tanh), 3), VECTOR
    ),
    "repeat, rematerialised": Instance(
        jl.repeat(jl.residual(jl.Dense(4)), 2, remat=jax.checkpoint_policies.dots_saveable), VECTOR
    ),
    "pipeline": Instance(jl.pipeline(jl.residual(jl.Dense(4)), 4, 2, 3), VECTOR, symbolic_axes=()),
    "repeat, shared": Instance(
        jl.repeat(jl.serial(jl.GRU(4), jl.BatchNorm(), jl.Dropout(0.2)), 3, shared=True),
        STEPS,
        full=True,
    ),
    "ensemble": Instance(jl.ensemble(jl.serial(jl.Dense(3), jl.BatchNorm()), 2), VECTOR, 1),
    "ensemble of inputs": Instance(
        jl.ensemble(jl.Dense(3), 2, shared=False),
        jl.spec((2, 3, 4)),
        None,
        symbolic_axes=(1,),
        full=True,
    ),
    "mixture of experts": Instance(
        jl.MixtureOfExperts(EXPERT, 3, jitter=0.1, balance_loss=0.1, z_loss=0.1), STEPS
    ),
    "mixture of experts with a capacity": Instance(
        jl.MixtureOfExperts(EXPERT, 3, capacity_factor=0.75),
        STEPS,
        full=True,
    ),
    "mixture of experts that choose": Instance(
        jl.MixtureOfExperts(EXPERT, 3, routing="expert_choice"),
        STEPS,
        full=True,
    ),
    "bidirectional": Instance(jl.bidirectional(jl.GRU(3)), STEPS),
    "bidirectional, last step": Instance(
        jl.bidirectional(jl.LSTM(3, return_sequences=False), jl.add()), STEPS, full=True
    ),
    "carried": Instance(
        jl.carried(jl.serial(jl.Dense(4), jl.LSTM(3))), (STEPS, {"lstm": {"h": jl.spec((2, 3))}})
    ),
    "carried, both directions": Instance(
        jl.carried(jl.bidirectional(jl.GRU(3), jl.add())), STEPS, full=True
    ),
    "carried, with state and copies": Instance(
        jl.carried(jl.repeat(jl.serial(jl.GRU(4), jl.BatchNorm(), jl.Dropout(0.2)), 2)),
        STEPS,
        None,
        full=True,
    ),
    "each step": Instance(jl.each_step(jl.Conv(3, 2)), jl.spec((2, 3, 4, 5, 2))),
    "drop_connect": Instance(jl.drop_connect(jl.serial(jl.Dense(3), jl.Dense(4)), 0.3), VECTOR),
    "drop_connect of a gru": Instance(
        jl.drop_connect(jl.serial(jl.Dense(3), jl.GRU(4)), 0.3), STEPS, full=True
    ),
    "once": Instance(jl.once(jl.serial(jl.Dense(3), jl.LayerNorm())), VECTOR),
    "inference": Instance(
        jl.inference(jl.serial(jl.Dense(3), jl.BatchNorm(), jl.Dropout(0.5))), VECTOR
    ),
    "plain": Instance(jl.plain(jl.serial(jl.Conv(3, 2, padding="CAUSAL"), jl.Dense(2))), STEPS),
    "standardize_weights": Instance(
        jl.standardize_weights(jl.serial(jl.Conv(3, 2, padding="CAUSAL"), jl.Dense(2))), STEPS
    ),
    "orthogonalize_weights": Instance(
        jl.orthogonalize_weights(jl.Conv(3, 2, padding="CAUSAL")), STEPS
    ),
    "orthogonalize_weights of two": Instance(
        jl.orthogonalize_weights(jl.serial(jl.Conv(3, 2, padding="CAUSAL"), jl.Dense(2))),
        STEPS,
        full=True,
    ),
    "orthogonalize_weights by other methods": Instance(
        jl.serial(
            jl.orthogonalize_weights(jl.Dense(3), method="matrix_exp"),
            jl.orthogonalize_weights(jl.Dense(5), method="cayley"),
        ),
        STEPS,
        full=True,
    ),
    "weight_norm": Instance(
        jl.weight_norm(jl.serial(jl.Conv(3, 2, padding="CAUSAL"), jl.Dense(2))), STEPS
    ),
    "spectral_norm": Instance(
        jl.spectral_norm(jl.serial(jl.Conv(3, 2, padding="CAUSAL"), jl.Dense(2))),
        STEPS,
        differences=False,  # u and v, which depend on the kernel, are constants in its gradient
    ),
    "with_losses": Instance(
        jl.with_losses(jl.repeat(jl.compose(_penalised, dense=jl.Dense(4)), 2)), VECTOR, None, False
    ),
    "capture": Instance(jl.capture(jl.serial(jl.Dense(3), jl.GRU(4)), "*"), STEPS),
    "capture, gradients": Instance(
        jl.capture(jl.serial(jl.Dense(3), jnp.tanh, jl.Dense(2)), "dense", what="gradient"),
        VECTOR,
        full=True,
    ),
    "perturb": Instance(
        jl.perturb(jl.serial(jl.Dense(3), jnp.tanh), "dense"), (VECTOR, {"dense": jl.spec((3, 3))})
    ),
    "patch": Instance(
        jl.patch(jl.serial(jl.Dense(3), jnp.tanh), "dense"),
        (VECTOR, {"dense": jl.spec((3, 3))}),
    ),
    "remat": Instance(jl.remat(jl.serial(jl.Dense(3), jl.Dropout(0.5))), VECTOR),
    "compose with state": Instance(jl.compose(_count_calls, dense=jl.Dense(3)), VECTOR),
    "compose, a child twice, a key": Instance(jl.compose(_shared, dense=jl.Dense(4)), VECTOR),
}
