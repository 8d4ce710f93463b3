"""What an argument says that other libraries have, or that older versions of this one had."""

import inspect

import jax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import decoding, training

_AFTER = "put jax.nn.relu after it: jl.serial(layer, jax.nn.relu)"
_LEAVE = "leave it out: sizes come from the input"


def dense(**words):
    return jl.Dense(3, **words)


def conv(**words):
    return jl.Conv(3, 3, **words)


def lstm(**words):
    return jl.LSTM(3, **words)


def attention(**words):
    return jl.SelfAttention(4, **words)


# (a function, the words given to it, the hint)
WORDS = [
    (jl.Dense, {"units": 4}, "features=4"),
    (jl.Dense, {"out_features": 4}, "features=4"),
    (jl.Dense, {"output_size": 4}, "features=4"),
    (jl.Dense, {"in_features": 8, "out_features": 4}, f"{_LEAVE}; features=4"),
    (jl.Dense, {"in_size": 8, "output_dim": 4}, f"{_LEAVE}; features=4"),
    (dense, {"activation": "relu"}, _AFTER),
    (dense, {"use_bias": False}, "bias=False"),
    (dense, {"with_bias": False}, "bias=False"),
    (dense, {"kernel_initializer": "he_normal"}, "kernel_init='he_normal'"),
    (dense, {"w_init": jax.nn.initializers.ones}, "kernel_init=..."),
    (dense, {"kernel_initt": 3}, "kernel_init=3"),
    (dense, {"biass": False}, "bias=False"),
    (dense, {"name": "a"}, "names are given by the parent: jl.serial(encoder=layer)"),
    (
        jl.GroupNorm,
        {"axis": 1},
        "it acts on the last axis; jnp.moveaxis before and after it for another",
    ),
    (dense, {"dtype": "float32"}, "leave it out: outputs have the dtype of the input, parameters"),
    (dense, {"rngs": 0}, "keys are passed to init and apply: layer.init(key, x)"),
    (dense, {"key": 0}, "keys are passed to init and apply: layer.init(key, x)"),
    (dense, {"kernel_regularizer": "l2"}, "add it to the loss"),
    (dense, {"kernel": 3}, "params['kernel']: kernel_init=... draws it"),
    (dense, {"input_shape": (3,)}, _LEAVE),
    (dense, {"train": True}, "train=True is passed to apply"),
    (jl.Conv, {"filters": 4, "kernel_size": 3}, "features=4"),
    (jl.Conv, {"in_channels": 3, "out_channels": 4, "kernel_size": 3}, f"{_LEAVE}; features=4"),
    (conv, {"stride": 2}, "strides=2"),
    (conv, {"depth_multiplier": 2}, "groups=channels, features=channels * depth_multiplier"),
    (conv, {"bias_constraint": "l2"}, "project the parameters after the step of optax"),
    (dense, {"batch_dims": 0}, "jl.Einsum(equation)"),
    (dense, {"lora_rank": 2}, "jl.transforms.lora(layer, 'kernel', rank=..., alpha=...)"),
    (jl.BatchNorm, {"moving_mean_initializer": "ones"}, "state['mean'] and state['var']"),
    (jl.BatchNorm, {"synchronized": True}, "leave it out: under jit"),
    (jl.LayerNorm, {"rms_scaling": True}, "jl.RMSNorm()"),
    (jl.InstanceNorm, {"feature_axes": 1}, "jl.LayerNorm(axis=..., the other axes"),
    (jl.DataNorm, {"mean": 1.0}, "state = {'mean': mean, 'var': variance}"),
    (jl.PReLU, {"alpha_initializer": "zeros"}, "slope_init='zeros'"),
    (jl.PReLU, {"shared_axes": (1, 2)}, "feature_axes=..., the axes that are not shared"),
    (lstm, {"use_cudnn": True}, "leave it out: the algorithm is chosen by size"),
    (lstm, {"zero_output_for_mask": True}, "y.fill() of the Sequence that comes out"),
    (lstm, {"seq_lengths": 3}, "jl.Sequence.from_lengths(x, lengths)"),
    (jl.bidirectional, {"layer": jl.LSTM(3), "merge_mode": "sum"}, "merge=jl.add(), multiply()"),
    (jl.bidirectional, {"layer": jl.LSTM(3), "backward_layer": jl.LSTM(3)}, "backward=..."),
    (attention, {"output_shape": 3}, "features=3"),
    (attention, {"attention_axes": 1}, "jl.each_step(layer)"),
    (attention, {"use_gate": True}, "gate=True"),
    (attention, {"normalize_qk": True}, "qk_norm='layer'"),
    (conv, {"stride": (2, 1)}, "strides=(2, 1)"),
    (conv, {"dilation_rate": 2}, "dilation=2"),
    (conv, {"kernel_dilation": 2}, "dilation=2"),
    (conv, {"rate": 2}, "dilation=..."),
    (conv, {"feature_group_count": 2}, "groups=2"),
    (jl.MaxPool, {"window_shape": 2, "padding_mode": "reflect"}, "jl.Pad(padding, mode='reflect')"),
    (conv, {"lhs_dilation": 2}, "input_dilation=2"),
    (conv, {"data_format": "NHWC"}, "leave it out: channels are last"),
    (jl.Conv, {"features": 4, "kernel_shape": 3}, "kernel_size=3"),
    (jl.Conv, {"features": 4, "kernel": 3}, "kernel_size=3"),
    (jl.MaxPool, {"pool_size": 2}, "window_shape=2"),
    (jl.MaxPool, {"window": 2}, "window_shape=2"),
    (jl.AvgPool, {"window_shape": 2, "divisor_override": 3}, "divisor=3"),
    (jl.MaxPool, {"window_shape": 2, "return_indices": True}, "indices=True"),
    (jl.AdaptiveAvgPool, {"output_size": 3}, "sizes=3"),
    (jl.GlobalAvgPool, {"keepdims": True}, "jl.AdaptiveAvgPool(1)"),
    (jl.Resize, {"scale_factor": 2}, "factor=2"),
    (jl.Resize, {"size": 2, "mode": "linear"}, "sizes=2; method='linear'"),
    (jl.Resize, {"sizes": 2, "align_corners": True}, "coordinates='align_corners'"),
    (jl.GridSample, {"padding_mode": "reflect"}, "mode='reflect'"),
    (jl.RoIAlign, {"output_size": 7, "spatial_scale": 0.5}, "sizes=7; scale=0.5"),
    (jl.Dropout, {"p": 0.5}, "rate=..., the probability of dropping"),
    (jl.Dropout, {"drop_rate": 0.5}, "rate=0.5"),
    (jl.Dropout, {"rate": 0.5, "deterministic": True}, "train=False, the default of apply"),
    (jl.Dropout, {"rate": 0.5, "same_over_time": True}, "shared_axes=1"),
    (jl.LayerNorm, {"eps": 1e-6}, "epsilon=1e-06"),
    (jl.LayerNorm, {"normalized_shape": 8}, _LEAVE),
    (jl.LayerNorm, {"param_axis": -1}, "feature_axes=..."),
    (jl.LayerNorm, {"use_scale": False}, "scale=False"),
    (jl.LayerNorm, {"elementwise_affine": False}, "scale=False, bias=False for"),
    (jl.RMSNorm, {"elementwise_affine": False}, "scale=False for"),
    (jl.SimpleRNN, {"features": 4, "nonlinearity": "relu"}, "activation=jax.nn.relu"),
    (jl.SelfAttention, {"num_heads": 4, "attn_dropout": 0.1}, "dropout_rate=..."),
    (attention, {"dropout": 0.1}, "hint:     dropout_rate=0.1"),
    (jl.models.GPT2, {"dropout": 0.1}, "hint:     dropout_rate=0.1"),
    (jl.models.BERT, {"drop_rate": 0.1}, "hint:     dropout_rate=0.1"),
    (jl.Dropout, {"dropout": 0.1}, "hint:     rate=0.1"),
    (dense, {"dropout": 0.1}, "jl.Dropout(rate) before or after it; dropout_rate= of attention"),
    (jl.MelSpectrogram, {"n_mels": 80}, "features=..."),
    (jl.bidirectional, {"layer": jl.Dense(3), "merge_mode": "sum"}, "merge=jl.add()"),
    (jl.MixtureOfExperts, {"num_experts_per_tok": 2}, "top_k=..."),
    (jl.PReLU, {"num_parameters": 8}, "feature_axes=-1"),
    (jl.TransformerBlock, {"nhead": 8}, "attend=jl.SelfAttention(nhead)"),
    (jl.losses.cross_entropy, {"weight": 1}, "class_weights=..."),
    (jl.losses.cross_entropy, {"ignore_index": 0}, "ignore_label=..."),
    (jl.losses.ctc, {"target_lengths": 0}, "label_lengths=..."),
    (jl.BatchNorm, {"num_features": 8}, _LEAVE),
    (jl.BatchNorm, {"renorm": True}, "jl.BatchRenorm(max_scale=..., max_shift=...)"),
    (jl.BatchNorm, {"axis": 1}, "feature_axes=..., the axes that keep statistics"),
    (jl.BatchNorm, {"decay_rate": 0.9}, "momentum=0.9"),
    (jl.BatchNorm, {"use_running_average": True}, "train=False, the default of apply"),
    (jl.GroupNorm, {"axis_name": "batch"}, "leave it out: under jit the batch is the whole batch"),
    (jl.GroupNorm, {"num_groups": 4}, "groups=..."),
    (jl.Embedding, {"vocab_size": 100, "features": 4}, "num_embeddings=100"),
    (jl.Embedding, {"vocabulary": 100, "features": 4}, "num_embeddings=100"),
    (jl.Embedding, {"num_embeddings": 100, "embedding_dim": 4}, "features=4"),
    (jl.LSTM, {"hidden_size": 4}, "features=4"),
    (lstm, {"num_layers": 2}, "jl.serial of as many layers"),
    (lstm, {"bidirectional": True}, "jl.bidirectional(layer)"),
    (lstm, {"batch_first": True}, "leave it out: sequences are (batch, time, features)"),
    (lstm, {"dropout": 0.1}, "jl.Dropout(rate) before it, or recurrent_dropout=..."),
    (lstm, {"go_backwards": True}, "reverse=True"),
    (lstm, {"return_state": True}, "jl.carried(layer): from (x, carry) to (y, carry)"),
    (jl.SelfAttention, {"heads": 4}, "num_heads=4"),
    (jl.SelfAttention, {"n_heads": 4}, "num_heads=4"),
    (attention, {"kv_heads": 2}, "num_kv_heads=2"),
    (attention, {"head_size": 8}, "head_dim=8"),
    (attention, {"key_dim": 8}, "head_dim=8"),
    (attention, {"embed_dim": 8}, "features=8"),
    (attention, {"is_causal": True}, "causal=True"),
    (attention, {"mask": None}, "jl.Sequence(values, mask): the data carries its mask"),
    (jl.repeat, {"layer": jl.Dense(3), "num_layers": 4}, "n=4"),
    (jl.stream, {"layer": lstm(), "max_length": 9}, "capacity=9"),
    (dense().init, {"key": 0, "input_shape": (3,)}, "x=jl.spec(shape)"),
    (dense().apply, {"params": {}, "state": {}, "training": True}, "train=True"),
    (dense().apply, {"params": {}, "state": {}, "deterministic": True}, "train=True where it is"),
    (training.train_step, {"optimizer": 3}, "tx=3"),
    (training.train_step, {"loss_fn": 3}, "loss=3"),
    (training.fit, {"num_epochs": 3}, "epochs=3"),
    (training.fit, {"batch_size": 3}, "data=jl.training.Batches(arrays, batch_size)"),
    (training.fit, {"validation_data": 3}, "evaluate=jl.training.make_evaluator(model, measure,"),
    (training.fit, {"log_evry": 3}, "log_every=3"),
    (training.Batches, {"arrays": (), "batch_size": 3}, "size=3"),
    (training.Batches, {"arrays": (), "size": 3, "shuffle": True}, "key=jax.random.key(0) shuff"),
    (training.Batches, {"arrays": (), "size": 3, "drop_last": True}, "last='drop', 'pad' or"),
    (training.CheckpointManager, {"folder": "a", "max_to_keep": 3}, "keep=3"),
    (training.CheckpointManager, {"directory": "a"}, "folder='a'"),
    (training.save_checkpoint, {"directory": "a"}, "folder='a'"),
    (decoding.generate, {"max_new_tokens": 3}, "steps=3"),
    (decoding.generate, {"eos_token_id": 3}, "stop=3"),
    (decoding.beam_search, {"num_beams": 3}, "beams=3"),
]


@pytest.mark.parametrize("case", WORDS, ids=lambda case: "-".join(case[1]))
def test_a_word_of_others_has_an_answer(case):
    function, words, hint = case
    with pytest.raises(TypeError) as caught:
        function(**words)
    assert isinstance(caught.value, jl.JlayersError)
    head, *lines = str(caught.value).splitlines()
    assert ": unknown argument" in head
    name = head.split(":")[0]
    assert any(line.startswith(f"  expected: {name}(") for line in lines)
    (shown,) = [line for line in lines if line.startswith("  hint:     ")]
    assert hint in shown


def test_the_classes_of_such_errors():
    for function, kind in (
        (jl.Dense, jl.LayerError),
        (jl.repeat, jl.LayerError),
        (training.fit, jl.TrainingError),
        (training.Batches, jl.DataError),
        (training.save_checkpoint, jl.CheckpointError),
    ):
        with pytest.raises(kind) as caught:
            function(nothing=1)
        assert isinstance(caught.value, TypeError)


CALLS = [
    (
        lambda: conv(zzz=1),
        "Conv: unknown argument 'zzz'",
        "expected: Conv(features, kernel_size, *, strides=1, padding=",
    ),
    (
        lambda: dense(yyy=1, units=2),
        "Dense: unknown arguments 'yyy', 'units'",
        "hint:     features=2",
    ),
    (lambda: jl.Dense(3, features=4), "Dense: multiple values for argument 'features'"),
    (
        lambda: jl.LSTM(8, 16),
        "LSTM: takes 1 argument by position, got 2",
        "hint:     sizes come from the input: LSTM(64)",
    ),
    (
        lambda: jl.Reshape(3, 4),
        "Reshape: takes 1 argument by position, got 2",
        "got:      3, 4",
        "hint:     one tuple: Reshape((28, 28, 1))",
    ),
    (
        lambda: jl.stream(lstm(), 16),
        "stream: takes 1 argument by position, got 2",
        "expected: stream(layer, *, capacity=None)",
        "hint:     the others are given by name",
    ),
]


@each(CALLS)
def test_calls_that_fit_no_signature(case):
    read(case)


def test_an_error_inside_the_function_is_its_own():
    @jl.factory
    def Broken():
        return len(3)

    with pytest.raises(TypeError, match="has no len"):
        Broken()

    @jl.factory
    def Wrong():
        return jl.Dense(units=3)

    with pytest.raises(jl.LayerError, match="Dense: unknown argument 'units'"):
        Wrong()


def test_signatures_are_what_was_written():
    assert str(inspect.signature(jl.repeat)).startswith("(layer: ")
