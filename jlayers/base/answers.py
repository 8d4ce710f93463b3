"""Answers to words of other libraries, and to old words of this one, as plain tables.

How to read this file: it is data alone. ``unknown.py`` looks a word up when an attribute or an
argument does not exist: names in NAMES, arguments in ARGUMENTS_OF, SAME_ARGUMENT and ARGUMENTS, in
that order; a word that is in no table is compared with the names that exist. A row of the first
three tables is an answer, what to write with ``jl`` for ``jlayers``, and the words that users write
in its place. Ranks are cut off before a name is looked up: ``MaxPooling2D`` is found under
``MaxPooling``.

The words are those of Flax, Haiku, Equinox, Keras and PyTorch. A word needs no row where the names
that exist, in jlayers or in JAX, are close enough to be found by their spelling.
"""

from __future__ import annotations

from collections.abc import Mapping

from .answers_surgery import SURGERY
from .answers_training import FURTHER, LOSSES, METRICS
from .answers_weights import LEAVING, MODELS, TRANSFORMS, WEIGHTS

_SIZES = "sizes come from the input"
_FUNCTION = "any function of one array is a layer"


# By answer in this file, where rows are read and added; by word where one is looked up.
def _by_word(rows: Mapping[str, str]) -> dict[str, str]:
    return {word: answer for answer, words in rows.items() for word in words.split()}


# Attributes of modules that do not exist: {module: {word: answer}}.
_NAMES = {
    "jlayers": {
        # layers
        f"jl.Dense(features): {_SIZES}": "Linear LazyLinear",
        "jl.Dense(features, axis=...), with a tuple of either": "DenseGeneral LinearGeneral",
        "jl.Einsum(equation, letter=size)": "EinsumDense",
        "jl.Affine(bias=False)": "Scale LayerScale",
        "jl.Affine(scale=False)": "Bias",
        "jl.maximum(*[jl.Dense(features) for _ in range(pieces)])": "Maxout",
        "jl.multiply(jl.Dense(n), jl.serial(jl.Dense(n), jax.nn.silu))": "SwiGLU GEGLU GatedUnit",
        "jl.serial(jl.Dense(64), jax.nn.relu, jl.Dense(10))": "MLP",
        "jl.Embedding(num_embeddings, features)": "Embed",
        "jl.tied(jl.Embedding(num_embeddings, features), layer)": (
            "ReversibleEmbedding EmbeddingTranspose EmbeddingDecode TiedEmbedding Shared attend"
        ),
        "jl.VectorQuantizer(num_embeddings, decay=0.99)": "VectorQuantizerEMA",
        "jl.MixtureOfExperts(expert, num_experts)": "MoE SparseMoE SwitchSparseFF SparseFF",
        "jl.PositionEmbedding(num_positions), or jl.SinusoidalPositions()": (
            "PositionalEncoding PositionalEmbedding SinePositionEncoding"
        ),
        "jl.LocalConv(features, kernel_size)": "ConvLocal LocallyConnected",
        "jl.Conv(channels, kernel_size, groups=channels)": "DepthwiseConv",
        "jl.serial(jl.Conv(channels, kernel_size, groups=channels, bias=False), "
        "jl.Conv(features, 1))": "SeparableConv SeparableConvolution SeparableDepthwiseConv",
        "jl.Conv(features, kernel_size)": "Convolution GeneralConv",
        "jl.ConvTranspose(features, kernel_size)": "ConvolutionTranspose GeneralConvTranspose",
        "jl.Conv(features, kernel_size, kernel_mask=mask)": "MaskedConv",
        "jl.standardize_weights(jl.Conv(features, kernel_size))": (
            "WeightStandardization StdConv WSConv"
        ),
        "jl.DeformableConv(features, kernel_size), on (image, offsets)": "DeformConv",
        "jl.Unfold(window_shape)": "extract_patches conv_general_dilated_patches",
        "jl.MaxPool(window_shape): the rank comes from the input": "MaxPooling",
        "jl.AvgPool(window_shape): the rank comes from the input": "AveragePooling MeanPool",
        "jl.MaxPool(window_shape), or jl.core.max_pool on arrays": "max_pool",
        "jl.AvgPool(window_shape), or jl.core.avg_pool on arrays": "avg_pool",
        "jl.GlobalAvgPool()": "GlobalAveragePooling",
        "jl.GlobalMaxPool()": "GlobalMaxPooling",
        f"jl.BatchNorm(): {_SIZES}": "BatchNormalization",
        "jl.BatchNorm(): under jit its statistics are those of the whole batch; axis_name= inside "
        "shard_map": "SyncBatchNorm",
        f"jl.LayerNorm(): {_SIZES}": "LayerNormalization",
        f"jl.GroupNorm(groups): {_SIZES}": "GroupNormalization",
        "jl.DataNorm(), whose state data.moments computes": "Normalization Standardize",
        "jl.RMSNorm(feature_axes=())": "ScaleNorm",
        "jl.FiLM() after a norm with scale=False, bias=False": (
            "AdaIN AdaLN AdaLayerNorm AdaGroupNorm ConditionalNorm ConditionalBatchNorm "
            "Conditioning"
        ),
        "jl.BatchRenorm()": "BatchRenormalization",
        "jl.UnitNorm()": "UnitNormalization L2Normalize",
        f"jl.RMSNorm(): {_SIZES}": "RMSNormalization",
        "jl.SpatialDropout(rate): the rank comes from the input": (
            "SpatialDropout1D SpatialDropout2D SpatialDropout3D Dropout1d Dropout2d Dropout3d"
        ),
        "jl.AlphaDropout(rate, whole_channels=True)": "FeatureAlphaDropout",
        "jl.spectral_norm(layer)": "SpectralNorm SpectralNormalization SNParamsTree",
        "jl.weight_norm(layer)": "WeightNorm WeightNormalization",
        "jl.orthogonalize_weights(layer)": "orthogonal Orthogonal",
        "jl.drop_connect(layer, rate)": "DropConnect WeightDrop WeightDropout",
        "jax.lax.stop_gradient, a layer as any function of one array": "StopGradient",
        "jl.StochasticDepth(rate)": "DropPath",
        "jl.ActivityPenalty(l1=..., l2=...)": "ActivityRegularization",
        "jl.SimpleRNN(features)": "VanillaRNN",
        "jl.LSTMCell(features)": "OptimizedLSTMCell",
        "jl.bidirectional(jl.LSTM(features))": "BiLSTM",
        "jl.MLSTM(features, num_heads)": "mLSTM mLSTMCell",
        "jl.SLSTM(features, num_heads)": "sLSTM sLSTMCell",
        "jl.SelectiveSSM(state_size), or jl.Mamba(state_size) for the block": "S6 S4D S4",
        "jl.GatedDeltaNet(num_heads)": "DeltaNet GatedDeltaRule",
        "jl.LinearRecurrence(features)": "RGLRU",
        "jl.serial of as many layers, jl.LSTM(features) each": "DeepRNN StackedRNNCells",
        "a pair (x, resets) as the input of the layer": "ResetCore",
        "jl.bidirectional(layer)": "Bidirectional",
        "jl.each_step(layer)": "TimeDistributed BatchApply",
        "jl.SelfAttention(num_heads), or jl.CrossAttention(num_heads)": (
            "MultiHeadAttention MultiheadAttention MultiHeadDotProductAttention Attention"
        ),
        "jl.SelfAttention(num_heads, num_kv_heads=...)": (
            "GroupQueryAttention GroupedQueryAttention"
        ),
        "jl.SelfAttention(num_heads, relative=jl.TransformerXLPositions(max_distance))": (
            "TransformerXL RelPartialLearnableMultiHeadAttn RelativeMultiHeadAttention"
        ),
        "jl.SelfAttention(num_heads, causal=True), on {'x': x, 'memory': memory}": (
            "StreamingDotProductAttention StreamingLocalDotProductAttention"
        ),
        "jl.GMMAttention(num_heads, num_components, hidden_dim)": (
            "GmmAttention GMMAttentionLayer MonotonicAttention"
        ),
        "jl.core.attention(q, k, v)": "dot_product_attention scaled_dot_product_attention",
        "jl.GraphConv(features)": "GCNConv GraphConvolution GCN",
        "jl.GraphAttention(num_heads, head_dim), dynamic=False for the first one": (
            "GATConv GATv2Conv GAT GATv2"
        ),
        "jl.MessagePassing(message, update)": "GraphNetwork InteractionNetwork SAGEConv GINConv",
        "jl.Graph(nodes, senders, receivers)": "GraphsTuple",
        "jl.GraphPool('mean')": "global_mean_pool",
        "jl.TransformerBlock(attend, mlp)": "TransformerEncoderLayer TransformerEncoderBlock",
        "jl.TransformerDecoderBlock(attend, cross, mlp)": (
            "TransformerDecoderLayer TransformerDecoder"
        ),
        "jl.repeat(jl.TransformerBlock(attend, mlp), n)": "TransformerEncoder",
        "jl.SimpleRNNCell(features)": "RNNCell SimpleCell",
        "train_step(..., mesh=mesh, rules=jl.sharding.data_parallel('data'))": (
            "DataParallel DistributedDataParallel"
        ),
        "train_step(..., mesh=mesh, rules=jl.sharding.fsdp('data'))": "FullyShardedDataParallel",
        "jl.STFT(frame_length, strides=hop), with output='power' or 'magnitude'": (
            "STFTSpectrogram Spectrogram stft"
        ),
        "jl.InverseSTFT(frame_length, strides=hop)": "ISTFT istft InverseSpectrogram",
        "jl.core.mel_filters(features, bins, sample_rate)": (
            "LinearToMelSpectrogram MelScale melscale_fbanks"
        ),
        "jl.BiquadFilter(sections)": "SOSFilter sosfilt Biquad biquad",
        "jl.IIRFilter(numerator, denominator)": "lfilter LFilter",
        "jl.Resample(up, down)": "resample_poly",
        "jl.Frame(frame_length, strides=hop)": "extract_sequences",
        "jl.OverlapAdd(hop)": "overlap_and_add",
        "lambda x: jnp.fft.rfft(x)": "RFFT FFT",
        "lambda x: jnp.transpose(x, (0, 2, 1)), or jl.Rearrange('b t c -> b c t')": (
            "Permute Transpose MoveAxis SwapAxes"
        ),
        "lambda x: jnp.repeat(x[:, None], n, 1)": "RepeatVector Repeat",
        "lambda x: jnp.squeeze(x, axis)": "Squeeze",
        "lambda x: jnp.expand_dims(x, axis)": "ExpandDims Unsqueeze",
        "jl.Reshape(shape), or jl.Rearrange('b (h d) -> b h d', h=8)": "Unflatten",
        "lambda x: jax.nn.one_hot(x, n)": "OneHot CategoryEncoding",
        "lambda x: x.astype(dtype)": "Cast",
        "lambda x: jnp.argmax(x, -1)": "Argmax ArgMax",
        "lambda x: einops.reduce(x, pattern, 'mean')": "Reduce",
        "jl.Einsum(equation)": "EinMix",
        "lambda x: x[:, :, 1:], and jl.on_sequence(lambda x: x[:, 1:]) for steps": "Slice",
        "padding= of the convolution, or jl.Pad(padding)": "ZeroPadding ConstantPad ZeroPad",
        "jl.Pad(padding, mode='reflect')": "ReflectionPad",
        "jl.Pad(padding, mode='replicate')": "ReplicationPad",
        "jl.Pad(padding, mode='circular')": "CircularPad",
        "jl.Crop(cropping)": "Cropping",
        "jl.Resize(factor=2), or jl.Resize((height, width))": (
            "UpSampling Upsample Upsampling UpsamplingNearest Resizing interpolate"
        ),
        "jl.Resize(factor=2, method='linear', coordinates='align_corners')": "UpsamplingBilinear",
        "jl.core.affine_grid(theta, sizes), for jl.GridSample()": "affine_grid",
        "jl.compose with jl.GridSample() and jl.core.affine_grid": "SpatialTransformer",
        "jl.PixelShuffle(factor), whose order of channels is PyTorch's": "depth_to_space",
        "jl.PixelUnshuffle(factor), whose order of channels is PyTorch's": "space_to_depth",
        "jl.concat of jl.serial(jl.AdaptiveAvgPool(n), jl.Flatten())": "SpatialPyramidPooling",
        "jl.Sequence(values, mask): the data carries its mask": "Masking",
        "jl.Sequence.from_rows(rows) pads rows of different lengths": "pad_sequence pad_sequences",
        # what a line of JAX does in Keras and Flax
        "lambda x: x[0] - x[1]": "Subtract",
        "lambda x: jnp.einsum('bti,bsi->bts', *x)": "Dot",
        "lambda x: x * scale + offset": "Rescaling",
        "lambda x: jnp.digitize(x, boundaries)": "Discretization",
        "lambda x: x[:, top : top + height, left : left + width]": "CenterCrop",
        "jl.data.Batches(arrays, size).map(function, key=key), with a key for each row": (
            "AugMix AutoContrast RandAugment RandomGrayscale RandomGaussianBlur RandomInvert "
            "RandomPerspective RandomPosterization RandomSharpness RandomColorJitter "
            "RandomColorDegeneration RandomElasticTransform Solarization Equalization Pipeline "
            "RandomFlip RandomCrop RandomRotation RandomZoom RandomTranslation RandomShear "
            "RandomBrightness RandomContrast RandomErasing RandomHue RandomSaturation"
        ),
        "jl.data.mixup, for jl.data.Batches(arrays, size).map": "MixUp Mixup",
        "jl.data.cutmix, for jl.data.Batches(arrays, size).map": "CutMix Cutmix",
        "a dict of Python before the model: arrays hold no strings": (
            "TextVectorization StringLookup Hashing HashedCrossing"
        ),
        "lambda ids: jnp.searchsorted(vocabulary, ids), of a sorted vocabulary": "IntegerLookup",
        "lambda x: jnp.where(x > threshold, x, 0.0)": "ThresholdedReLU",
        "jl.stateless(init, apply), of the other library's functions": (
            "JaxLayer FlaxLayer FlaxModule LinenModule ToLinen ToNNX"
        ),
        "a function that takes a layer and gives one: jl.serial(layer, function)": "Wrapper",
        "jl.Cell(parameters, carry, step)": "RNNCellBase RNNCore AbstractRNNCell",
        "causal=True of attention; as a mask jnp.tril(jnp.ones((1, time, time), bool))": (
            "make_causal_mask"
        ),
        "queries[:, :, None] & keys[:, None, :], the 'mask' of attention": "make_attention_mask",
        "a & b": "combine_masks",
        "jax.jit(layer.init, out_shardings=...)": "with_partitioning with_logical_partitioning",
        # combinators
        "jl.serial(*layers)": "Sequential sequential",
        "jl.serial, jl.parallel or jl.branch; jl.compose for any other wiring": (
            "ModuleList ModuleDict"
        ),
        f"the function itself: {_FUNCTION}": "Lambda",
        f"the function itself, jax.nn.relu: {_FUNCTION}": "Activation",
        "jl.serial()": "Identity identity IdentityCore",
        "jl.add(*layers)": "Add",
        "jl.concat(*layers)": "Concatenate concatenate",
        "jl.multiply(*layers)": "Multiply",
        "jl.average(*layers)": "Average",
        "jl.maximum(*layers)": "Maximum",
        "jl.minimum(*layers)": "Minimum",
        "jl.residual(layer)": "Residual skip",
        "jl.branch(*layers)": "FanOut",
        "jl.add()": "FanInSum",
        "jl.concat()": "FanInConcat",
        "jl.repeat(layer, n), or jax.lax.scan": "scan",
        "jl.repeat(layer, n)": "Scan",
        "jl.ensemble(layer, n), or jax.vmap": "vmap",
        # looking inside
        "jl.capture(model, pattern): the output of a layer, by path": (
            "sow capture_intermediates register_forward_hook intermediates create_feature_extractor"
        ),
        "jl.picture(model, x).save('model.svg')": "plot_model make_dot draw_graph",
        # writing layers
        "jl.compose(body, **children); a layer is a pair of functions, not a class": "Module",
        "jl.serial(*layers), or jl.compose(body, **children)": "Model",
        "jl.spec(shape): init takes the spec of the input": "Input InputLayer",
        "jl.spec(shape)": "InputSpec",
        "jl.spec(shape), or jax.ShapeDtypeStruct": "ShapeDtypeStruct",
        "f.param(name, init, shape) in the body of jl.compose": "Parameter param get_parameter",
        "f.variable(name, init) in the body of jl.compose": "Variable get_state",
        "jax.random.key(0): keys are passed to init and apply": "Rngs",
        "no transform is needed: init, apply = layer": "transform transform_with_state",
        "jax.nn.initializers": "initializers",
        "layer.init(key, x)": "init",
        "layer.apply(params, state, x)": "apply",
        "jl.summary(layer, x)": "tabulate",
        "jax.jit(layer.apply): params are arrays alone": "filter_jit",
        f"jnp.tanh: {_FUNCTION}": "Tanh",
        f"jnp.exp: {_FUNCTION}": "Exp",
        "jl.losses.linear_cross_entropy(x, kernel, labels)": (
            "LinearCrossEntropyLoss linear_cross_entropy"
        ),
        "lambda x: jax.nn.softmax(x, -1)": "Softmax2d",
        "jl.LocalResponseNorm()": "CrossMapLRN",
        "jl.RNN(cell)": "RNNBase",
        "jl.training.train_step(..., ema=0.99), and training.ema_params(state)": (
            "EMA EMAParamsTree AveragedModel"
        ),
        "f.variable(name, init) in the body of jl.compose, set in training": (
            "ExponentialMovingAverage"
        ),
        "the second value of layer.init: the state is a dict beside the parameters": (
            "State StateIndex StatefulLayer"
        ),
        "a function around jax.pure_callback": "TFSMLayer TorchModuleWrapper",
        "jl.serial of blocks, jl.residual(jl.serial(jl.Conv(...), jl.BatchNorm(), ...))": (
            "ResNet ResNet18 ResNet34 ResNet50 ResNet101 ResNet152 ResNet200 MobileNetV1"
        ),
        "jax.lax.optimization_barrier, a layer as any function": "OptimizationBarrier",
        "a function that calls jax.debug.print and returns its input": "Logging",
        "lambda x: jax.lax.with_sharding_constraint(x, sharding)": "ApplySharding",
        "jl.remat(layer)": "CheckpointGradient",
        "jl.transforms.precision(model, 'mixed')": "autocast amp DTypePolicy MixedPrecision Policy",
        "jl.transforms.clip_gradients(model, pattern, norm=1.0)": "ClipGradient GradientClipping",
        "jl.Einsum('btd,tdk->btk', k=features, bias_axes='tk')": "SequenceDense",
        "lambda x: jnp.where(x > threshold, x, value)": "Threshold",
        "lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0.0)": "Hardshrink",
        "lambda x: x - jnp.clip(x, -0.5, 0.5)": "Softshrink",
        "lambda x: x - jnp.tanh(x)": "Tanhshrink",
        "lambda x: jax.nn.softmax(-x)": "Softmin",
        "jl.tied(jl.Embedding(n, 128), layer) for a smaller table": "AdaptiveLogSoftmaxWithLoss",
        # training
        "jl.training.Batches(arrays, size), or any loader: fit takes it": "DataLoader",
        "jl.training.save_checkpoint": "save",
        "jl.training.read_checkpoint": "load",
        "jl.training.fit": "Trainer",
        "jl.training, or train=True for apply": "train",
        # old names of this library
        "jl.receptive_field(model, x)": "reach",
        "jl.ReceptiveField(stride, lookback, lookahead)": "Reach",
        "jl.SequenceMode": "Takes",
        "jl.StepPair": "Stream Streamed",
        "jl.Scope": "Namespace",
    },
    "jlayers.interop": WEIGHTS,
    "jlayers.export": LEAVING,
    "jlayers.models": MODELS,
    "jlayers.losses": LOSSES,
    "jlayers.metrics": METRICS,
    "jlayers.checkpoint": {
        "checkpoint.CorruptCheckpointError": "DamagedCheckpointError",
        "checkpoint.CheckpointManager": "Checkpoints",
        "checkpoint.read_checkpoint": "load",
        "checkpoint.save_checkpoint": "save",
    },
    "jlayers.data": {
        "data.Batches(arrays, size), or any loader: fit takes it": "DataLoader",
        "data.stack_batches": "stacked",
    },
    "jlayers.training": {
        "training.CorruptCheckpointError": "DamagedCheckpointError",
        "training.CheckpointManager": "Checkpoints",
        "training.FitResult": "Fitted",
        "training.ema_params": "averaged",
        "training.make_evaluator": "evaluation eval_step evaluate",
        "training.as_source": "source",
        "training.stack_batches": "stacked",
        "training.jit_reporting_recompiles": "watched",
        "jl.testing.check_resume": "verify_resume",
        "jl.testing.ResumeReport": "Resumption",
        "training.fit(step, state, data, ...)": "Trainer",
        "training.Hook": "Callback",
        "training.train_step(..., frozen='encoder/**')": "freeze set_trainable",
        "training.train_state(model, tx, key, x)": "create_train_state",
        "training.Batches(arrays, size), or any loader: fit takes it": "DataLoader Dataset",
        "training.save_checkpoint": "save",
        "training.read_checkpoint": "load restore_checkpoint",
        "training.CheckpointManager(folder), for fit(..., checkpoints=)": "ModelCheckpoint",
        "training.tensorboard(folder)": "TensorBoard",
        "training.json_lines(path)": "CSVLogger",
    },
}
NAMES = {module: _by_word(rows) for module, rows in _NAMES.items()}
for _rows in (*FURTHER, SURGERY, TRANSFORMS, WEIGHTS):  # an answer may be in several of them
    NAMES["jlayers"] |= _by_word(_rows)

# The same argument under other words. It is suggested where the function has such an argument; of
# several for one word, the first in this order.
_SAME_ARGUMENT = {
    "features": (
        "units filters out_features out_channels output_channels output_size output_dim out_size "
        "hidden_size hidden_dim hidden_features num_units num_hiddens width dim embedding_dim "
        "embedding_size embed_dim d_model num_mel_bins output_shape"
    ),
    "kernel_size": "kernel_shape kernel filter_shape",
    "strides": "stride window_strides hop_length frame_step sequence_stride hop",
    "frame_length": "n_fft sequence_length win_length frame_size",
    "fft_length": "n_fft nfft",
    "window_length": "win_length sequence_length",
    "sample_rate": "sampling_rate sr fs",
    "lowest": "f_min fmin min_freq lower_edge_hertz",
    "highest": "f_max fmax max_freq upper_edge_hertz",
    "scaling": "normalized",
    "sections": "sos",
    "numerator": "b b_coeffs",
    "denominator": "a a_coeffs",
    "taps": "b h",
    "window_shape": "kernel_size window pool_size filt_size",
    "dilation": "dilation_rate kernel_dilation rhs_dilation window_dilation",
    "input_dilation": "lhs_dilation",
    "kernel_mask": "mask",
    "ceil_mode": "use_ceil",
    "divisor": "divisor_override",
    "indices": "return_indices",
    "sizes": "output_size target_shape size output_shape",
    "factor": "scale_factor upscale_factor downscale_factor",
    "ratio": "output_ratio",
    "samples": "sampling_ratio",
    "mode": "padding_mode",
    "method": "mode interpolation resample",
    "combine": "operation computation reduce_fn",
    "groups": "feature_group_count num_groups",
    "bias": "use_bias with_bias create_offset center",
    "scale": "use_scale create_scale mel_scale spatial_scale",
    "kernel_init": "kernel_initializer w_init weight_init depthwise_initializer",
    "embedding_init": "w_init weight_init embeddings_initializer",
    "bias_init": "bias_initializer b_init beta_initializer",
    "scale_init": "gamma_initializer scale_initializer",
    "recurrent_init": "recurrent_initializer recurrent_kernel_init",
    "recurrent_activation": "gate_fn inner_activation",
    "activation": "activation_fn",
    "state_size": "d_state ssm_state_size",
    "step_rank": "dt_rank time_step_rank",
    "epsilon": "eps",
    "momentum": "decay_rate decay",
    "num_heads": "heads n_heads n_head nhead num_attention_heads num_query_heads",
    "num_kv_heads": "kv_heads n_kv_heads num_key_value_heads num_query_groups",
    "head_dim": "head_size key_dim key_size dim_head",
    "causal": "is_causal use_causal_mask",
    "window": "sliding_window_size",
    "rope": "rotary",
    "gate": "use_gate",
    "dropout_rate": "dropout drop_rate drop_prob dropout_prob p",
    "rate": "p drop_rate drop_prob dropout_rate dropout",
    "padding_id": "padding_idx",
    "p": "norm_type norm_order",
    "commitment": "commitment_cost beta",
    "soft_cap": "logit_soft_cap logits_soft_cap softcap",
    "num_embeddings": "vocab_size vocabulary vocabulary_size input_dim",
    "reverse": "go_backwards",
    "backward": "backward_layer",
    "slope_init": "alpha_initializer negative_slope_init",
    "layer_norm": "use_layer_norm",
    "shape": "target_shape dims",
    "start": "start_dim preserve_dims init init_value",
    "end": "end_dim",
    "n": "num_layers layers depth length copies",
    "capacity": "max_length max_len cache_size",
    "steps": "max_length max_len num_steps max_steps max_new_tokens",
    "receptive_field": "reach",
    "hint": "mend",
    "selector": "pattern patterns where",
    "pattern": "selector patterns",
    "sequence_mode": "takes",
    # init and apply
    "key": "rng rngs prng_key seed shuffle",
    "x": "inputs",
    "train": "training is_training",
    "params": "variables",
    # training
    "tx": "optimizer optim",
    "loss": "loss_fn",
    "clip": "max_grad_norm grad_clip clip_norm gradient_clip_val",
    "accumulate": "accumulation_steps accumulate_grad_batches gradient_accumulation_steps",
    "ema": "ema_decay",
    "learning_rate": "lr",
    "frozen": "trainable",
    "steps_per_call": "steps_per_execution",
    "epochs": "max_epochs num_epochs",
    "evaluate_every": "eval_every validation_freq",
    "checkpoint_every": "save_every",
    "evaluate": "validation_data",
    "checkpoints": "checkpoint checkpoint_manager checkpoint_dir",
    "folder": "checkpoint_dir directory dir",
    "hooks": "callbacks",
    "progress": "verbose",
    "data": "train_data dataset dataloader train_dataloader",
    "size": "batch_size",
    "last": "drop_last drop_remainder",
    "keep": "max_to_keep",
    "best": "keep_best",
    "metric": "monitor",
    "path": "directory dir",
    # decoding
    "beams": "num_beams beam_size",
    "stop": "eos eos_id eos_token_id stop_token",
    "pad": "pad_id pad_token_id",
    "prompt": "input_ids",
}
SAME_ARGUMENT = {
    word: tuple(argument for argument, words in _SAME_ARGUMENT.items() if word in words.split())
    for words in _SAME_ARGUMENT.values()
    for word in words.split()
}

# Arguments that no layer has, and what to do in their place.
_ARGUMENTS = {
    "put jax.nn.relu after it: jl.serial(layer, jax.nn.relu)": "activation act nonlinearity",
    f"leave it out: {_SIZES}": (
        "in_features in_channels in_size input_size input_channels input_dim input_shape "
        "num_features num_channels normalized_shape embed_dim kdim vdim"
    ),
    "names are given by the parent: jl.serial(encoder=layer)": "name",
    "keys are passed to init and apply: layer.init(key, x)": (
        "key rng rngs seed rng_collection keep_rngs"
    ),
    "train=True is passed to apply: layer.apply(params, state, x, train=True)": (
        "train training is_training"
    ),
    "train=False, the default of apply, is deterministic": "deterministic",
    "train=False is the default of apply": "inference",
    "train=False, the default of apply, uses the running statistics": "use_running_average",
    "apply always returns (y, state)": "mutable",
    "leave it out: outputs have the dtype of the input, parameters are stored in float32; "
    "jl.transforms.precision(model, rules) for others": (
        "dtype param_dtype promote_dtype preferred_element_type"
    ),
    "jax.device_put(params, device), or jax.jit(layer.init, out_shardings=...)": "device",
    "jax.default_matmul_precision(...) around the call": "precision",
    "params['kernel']: kernel_init=... draws it": "kernel",
    "params: kernel_init=... draws them": "weights weight",
    "add it to the loss; jl.select(params, '**/*kernel') picks the parameters": (
        "kernel_regularizer bias_regularizer recurrent_regularizer activity_regularizer "
        "gamma_regularizer beta_regularizer embeddings_regularizer depthwise_regularizer "
        "pointwise_regularizer alpha_regularizer"
    ),
    "project the parameters after the step of optax": (
        "kernel_constraint bias_constraint recurrent_constraint gamma_constraint beta_constraint "
        "embeddings_constraint depthwise_constraint pointwise_constraint alpha_constraint"
    ),
    "state['mean'] and state['var'] are yours to set": (
        "moving_mean_initializer moving_variance_initializer mean_init var_init"
    ),
    "it acts on the last axis; jnp.moveaxis before and after it for another one": (
        "axis dim reduction_axes feature_axes"
    ),
    "scale=False, bias=False for affine=False": "affine",
    "projection=...": "proj_size",
    "the bias of the forget gate starts at 1; bias_init=... changes it": "unit_forget_bias",
    "leave it out: under jit the batch is the whole batch": "axis_name synchronized",
    "leave it out: channels are last": "data_format channel_axis",
    "leave it out: sequences are (batch, time, features)": "batch_first time_major",
    "jl.Pad(padding, mode='reflect') before it": "padding_mode",
    "coordinates='align_corners'": "align_corners",
    "sizes=... spreads outputs over the whole input, factor=... does not": "recompute_scale_factor",
    "jl.AdaptiveAvgPool(1) and jl.AdaptiveMaxPool(1) keep the axes": "keepdims",
    "jl.ConvTranspose(features, kernel_size, strides=...)": "input_dilation",
    "flip and swap the axes of the kernel; see core.conv_transpose": "transpose_kernel",
    "jl.Sequence(values, mask): the data carries its mask": ("mask mask_zero attention_mask"),
    "jl.Dropout(rate) before or after it; dropout_rate= of attention": "dropout dropout_rate",
    "jl.bidirectional(layer)": "bidirectional",
    "jl.serial of as many layers": "num_layers",
    "jl.carried(layer): from (x, carry) to (y, carry)": "stateful return_state return_carry",
    "trainable_carry=True, or jl.stream(layer)": "carry_init",
    "leave it out: the algorithm is chosen by size; method= overrides it": (
        "unroll implementation use_cudnn flash_attention attention_fn"
    ),
    "leave it out: it is a matter of the compiler": "dot_general conv_general_dilated",
    "leave it out: the fast form is taken where it is exact enough": "use_fast_variance",
    "leave it out: every weight is drawn by itself": "broadcast_dropout",
    "leave it out: outputs are in the order of the input": "keep_order",
    "y.fill() of the Sequence that comes out": "zero_output_for_mask",
    "jl.Sequence.from_lengths(x, lengths) as the input": "seq_lengths lengths input_lengths",
    "jl.transforms.lora(layer, 'kernel', rank=..., alpha=...)": "lora_rank lora_alpha",
    "jl.Einsum(equation), with a letter that x, kernel and y have": "batch_dims n_batch_dims",
    "groups=channels, features=channels * depth_multiplier": (
        "depth_multiplier channel_multiplier"
    ),
    "jl.tied(layer, model)": "tie_weights",
    "jl.each_step(layer) for axis 2 of four, between two jl.Rearrange for others": "attention_axes",
    "jl.CrossAttention of (x, Sequence.prepend(x, a learned step))": "add_bias_kv",
    "sinks=True, whose parameter starts at 0": "add_zero_attn",
    "jl.Crop(cropping) before it": "crop_to_aspect_ratio",
    "jl.Pad(padding) before it": "pad_to_aspect_ratio",
    "jl.RMSNorm()": "rms_scaling",
    "lambda y: y[..., None] after it": "expand_dims",
    "jl.RNN(jl.Cell(parameters, carry, step)) for a cell of your own": "recurrent_activation",
    "head_dim=..., the features of one head": "qkv_features",
    "kernel_init=..., for all four maps": "out_kernel_init",
    "jl.stream(layer, capacity=...)": "decode",
    "weights=True: the output is (y, weights)": "return_attention_scores need_weights",
    "train=True is passed to apply, and returns the new statistics": "track_running_stats",
    "jl.training.train_step(..., frozen='encoder/**')": "trainable",
    "leave it out: arrays do not change": "inplace",
    "leave it out: gradients of tables are dense arrays": "sparse",
    "divide the gradient's rows by how often their ids occur: jnp.bincount": "scale_grad_by_freq",
    "data: a source of batches (x, *targets)": "x y",
    "data=jl.training.Batches((x, y), batch_size)": "batch_size",
    "jl.training.train_step(model, loss, tx)": "optimizer loss",
    "the loss may return (loss, metrics)": "metrics",
    "leave it out: a loss may return (loss, metrics)": "has_aux",
    "a loader of your own (grain, PyTorch): fit takes it": "num_workers",
    "temperature=1.0": "do_sample",
}
ARGUMENTS = _by_word(_ARGUMENTS)

# Answers that hold for one function alone: {function: {word: answer}}.
# They come first: dropout= means another thing for a cell than for any other layer.
ARGUMENTS_OF: dict[str, dict[str, str]] = {
    "Conv": {"rate": "dilation=...", "channels": "features=..."},
    "BatchNorm": {
        "cross_replica_axis": "axis_name=...",
        "renorm": "jl.BatchRenorm(max_scale=..., max_shift=...)",
        "axis": "feature_axes=..., the axes that keep statistics of their own",
        "track_running_stats": "jl.inference(jl.BatchNorm(), train=True) for the batch's, always",
        "zero_debias": "debiased=True",
    },
    "LayerNorm": {
        "reduction_axes": "axis=...",
        "param_axis": "feature_axes=...",
        "elementwise_affine": "scale=False, bias=False for elementwise_affine=False",
    },
    "RMSNorm": {
        "reduction_axes": "axis=...",
        "param_axis": "feature_axes=...",
        "elementwise_affine": "scale=False for elementwise_affine=False",
    },
    "SimpleRNN": {"nonlinearity": "activation=jax.nn.relu"},
    "MelSpectrogram": {"n_mels": "features=..."},
    "MixtureOfExperts": {"num_experts_per_tok": "top_k=..."},
    "TransformerBlock": {
        "d_model": "sizes come from the input",
        "nhead": "attend=jl.SelfAttention(nhead)",
    },
    "cross_entropy": {
        "weight": "class_weights=...",
        "ignore_index": "ignore_label=...",
        "from_logits": "leave it out: it takes logits",
    },
    "ctc": {"input_lengths": "lengths=...", "target_lengths": "label_lengths=..."},
    "GroupNorm": {"num_groups": "groups=..."},
    "DataNorm": {
        "axis": "feature_axes=..., the axes that keep statistics of their own",
        "mean": "state = {'mean': mean, 'var': variance}, in place of init's",
        "variance": "state = {'mean': mean, 'var': variance}, in place of init's",
    },
    "InstanceNorm": {"feature_axes": "jl.LayerNorm(axis=..., the other axes, feature_axes=...)"},
    "UnitNorm": {"order": "lambda x: x / jnp.linalg.norm(x, order, -1, keepdims=True)"},
    "PReLU": {
        "num_parameters": "feature_axes=-1 for a slope for each feature",
        "shared_axes": "feature_axes=..., the axes that are not shared",
    },
    "AdditiveAttention": {"use_scale": "params['scale'] of ones for use_scale=False"},
    "STFT": {"mode": "output='magnitude', 'power' or 'complex'"},
    "SelfAttention": {"attn_dropout": "dropout_rate=...", "normalize_qk": "qk_norm='layer'"},
    "CrossAttention": {"normalize_qk": "qk_norm='layer'"},
    "bidirectional": {
        "merge_mode": "merge=jl.add(), multiply(), average(), or serial() for a pair"
    },
    "AlphaDropout": {"noise_shape": "whole_channels=True for one draw for all places"},
    "Dropout": {
        "p": "rate=..., the probability of dropping",
        "same_over_time": "shared_axes=1",
        "shared_over_time": "shared_axes=1",
        "broadcast_dims": "shared_axes=...",
        "noise_shape": "shared_axes=..., the axes of size 1",
    },
    "LSTM": {"dropout": "jl.Dropout(rate) before it, or recurrent_dropout=..."},
    "GRU": {"dropout": "jl.Dropout(rate) before it, or recurrent_dropout=..."},
    "train_step": {"trainable": "frozen=..., the patterns of what is not trained"},
    "Batches": {
        "shuffle": "key=jax.random.key(0) shuffles; without a key the order is that of the rows",
        "drop_last": "last='drop', 'pad' or 'keep'",
        "drop_remainder": "last='drop', 'pad' or 'keep'",
        "seed": "key=jax.random.key(seed)",
    },
    "fit": {
        "validation_data": "evaluate=jl.training.make_evaluator(model, measure, data)",
        "checkpoint_dir": "checkpoints=jl.training.CheckpointManager(folder)",
        "verbose": "progress=True or False",
        "batch_size": "data=jl.training.Batches(arrays, batch_size)",
        "seed": "the key is in the state: training.train_state(model, tx, key, x)",
        "key": "the key is in the state: training.train_state(model, tx, key, x)",
    },
    "apply": {
        "deterministic": "train=True where it is not deterministic",
        "use_running_average": "train=True where it is not the running average",
        "mutable": "leave it out: apply always returns (y, state)",
        "mask": "jl.Sequence(values, mask) as x: the data carries its mask",
    },
    "init": {
        "train": "leave it out: init does not depend on it",
        "input_shape": "x=jl.spec(shape)",
    },
    "summary": {"input_shape": "x=jl.spec(shape)"},
}

# What a positional argument too many was meant for: {function: answer}.
# Most come from PyTorch and Equinox, whose layers take the size of the input first.
POSITIONAL: dict[str, str] = {
    "Batches": "the arrays of a batch are a tuple: Batches((x, labels), 32)",
    "fit": "the others are given by name: steps=1000",
    "LengthBuckets": "the boundaries have a name: LengthBuckets(arrays, 32, boundaries=[8, 16])",
    "train_step": "a batch is a tuple: step(state, (x, labels)); options have names: clip=1.0",
    "Dense": f"{_SIZES}: Dense(16)",
    "Conv": f"{_SIZES}: Conv(16, 3); options are given by name: strides=2",
    "ConvTranspose": f"{_SIZES}: ConvTranspose(16, 3); options are given by name: strides=2",
    "ConvLSTM": f"{_SIZES}: ConvLSTM(16, 3)",
    "BatchNorm": f"{_SIZES}: BatchNorm()",
    "LayerNorm": f"{_SIZES}: LayerNorm()",
    "RMSNorm": f"{_SIZES}: RMSNorm()",
    "GroupNorm": f"{_SIZES}: GroupNorm(8), the number of groups alone",
    "LSTM": f"{_SIZES}: LSTM(64)",
    "GRU": f"{_SIZES}: GRU(64)",
    "SimpleRNN": f"{_SIZES}: SimpleRNN(64)",
    "MinGRU": f"{_SIZES}: MinGRU(64)",
    "LinearRecurrence": f"{_SIZES}: LinearRecurrence()",
    "SelfAttention": f"{_SIZES}: SelfAttention(8), the number of heads alone",
    "CrossAttention": f"{_SIZES}: CrossAttention(8), the number of heads alone",
    "GlobalMaxPool": "it takes all spatial axes; MaxPool(window_shape) for windows",
    "GlobalAvgPool": "it takes all spatial axes; AvgPool(window_shape) for windows",
    "compose": "children are given by name: compose(body, dense=jl.Dense(3))",
    "repeat": "one layer and a number: repeat(jl.serial(*layers), n)",
    "residual": "one layer: residual(jl.serial(*layers))",
    "each_step": "one layer: each_step(jl.serial(*layers))",
    "Reshape": "one tuple: Reshape((28, 28, 1))",
}

# What is left out, and what to write: {function: answer}.
MISSING: dict[str, str] = {
    "fit": "step = training.train_step(model, loss, tx), state = step.start(key, x), and as data "
    "training.Batches((x, y), 32)",
    "LengthBuckets": "boundaries=[8, 16], to which lengths batches are cut",
}
