"""jlayers.models of text and speech: what transformers computes, with weights by interop.match."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
tf = pytest.importorskip("transformers")
models = jl.models
pytestmark = [pytest.mark.conformance, pytest.mark.oracle("transformers")]

# Of the largest number.
NEAR = 1e-5
IDS = np.random.default_rng(0).integers(3, 50, (2, 7))
SOURCE = np.random.default_rng(1).integers(3, 50, (2, 9))
MEL = np.random.default_rng(2).standard_normal((2, 12, 5)).astype("float32")
PADDED = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], bool)

SMALL = {"num_embeddings": 50, "features": 8, "num_layers": 2}
HEADS = SMALL | {"num_heads": 2}
GROUPED = SMALL | {"hidden_dim": 12, "num_heads": 4, "num_kv_heads": 2}
NO_STOP = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
BERT = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}
LLAMA = NO_STOP | {
    "vocab_size": 50,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
LONGER = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = NO_STOP | {"vocab_size": 50, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 20}
T5 = {
    "vocab_size": 50,
    "d_model": 8,
    "d_kv": 3,
    "d_ff": 12,
    "num_layers": 2,
    "num_heads": 2,
    "eos_token_id": None,
    "decoder_start_token_id": 0,
}
WHISPER = NO_STOP | {
    "vocab_size": 50,
    "num_mel_bins": 5,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_source_positions": 6,
    "max_target_positions": 20,
    "decoder_start_token_id": 3,
}


def untied(theirs):
    """With a kernel of its own for the logits, as in files of version 1.1."""
    theirs.lm_head.weight = torch.nn.Parameter(torch.empty(50, 8))
    return theirs


def of_ids(theirs, ids, mask):
    return theirs(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long())


def beside_source(theirs, ids, mask):
    return theirs(
        input_ids=torch.tensor(SOURCE),
        decoder_input_ids=torch.tensor(ids),
        decoder_attention_mask=torch.tensor(mask).long(),
    )


def beside_mel(theirs, ids, mask):
    mel = torch.tensor(np.moveaxis(MEL, 1, 2))
    return theirs(input_features=mel, decoder_input_ids=torch.tensor(ids))


T5_CASE = {
    "model": models.T5(**HEADS, head_dim=3, hidden_dim=12),
    "run": beside_source,
    "beside": SOURCE,
}
# What builds theirs, our model, how theirs runs, what it reads beside the ids, and the rules.
CASES = {
    "bert": {
        "theirs": lambda: tf.BertModel(tf.BertConfig(**BERT)),
        "model": models.BERT(**HEADS, num_positions=20),
        "output": "pooler_output",
    },
    "bert, ids": {
        "theirs": lambda: tf.BertForMaskedLM(tf.BertConfig(**BERT)),
        "model": models.BERT(**HEADS, num_positions=20, head="ids"),
    },
    "gpt2": {
        "theirs": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2)),
        "model": models.GPT2(**HEADS, num_positions=20),
    },
    "gpt2, another network": {
        "theirs": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2, n_inner=12)),
        "model": models.GPT2(**HEADS, num_positions=20, hidden_dim=12),
    },
    "llama": {
        "theirs": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA)),
        "model": models.Llama(**GROUPED),
    },
    "llama, tied": {
        "theirs": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
        "model": models.Llama(**GROUPED, tied=True),
    },
    "llama, with biases and longer waves": {
        "theirs": lambda: tf.LlamaForCausalLM(
            tf.LlamaConfig(**LLAMA, attention_bias=True, head_dim=6, rope_parameters=LONGER)
        ),
        "model": models.Llama(
            **GROUPED, bias=True, head_dim=6, rope=jl.Rope(500.0, scaling=jl.Llama3Scaling(8.0, 16))
        ),
    },
    "qwen2": {
        "theirs": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**LLAMA)),
        "model": models.Llama(**GROUPED, bias=("query", "key", "value")),
    },
    "mistral": {
        "theirs": lambda: tf.MistralForCausalLM(tf.MistralConfig(**LLAMA, sliding_window=3)),
        "model": models.Llama(**GROUPED, window=3),
    },
    "mixtral": {
        "theirs": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**LLAMA, num_local_experts=3)),
        "model": models.Llama("mixtral-8x7b", **GROUPED, num_experts=3),
    },
    "mixtral, three of four and a window": {
        "theirs": lambda: tf.MixtralForCausalLM(
            tf.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=3, sliding_window=2)
        ),
        "model": models.Llama("mixtral-8x7b", **GROUPED, num_experts=4, top_k=3, window=2),
    },
    "mamba": {
        "theirs": lambda: tf.MambaForCausalLM(
            tf.MambaConfig(vocab_size=50, hidden_size=8, state_size=4, num_hidden_layers=2)
        ),
        "model": models.MambaLM(**SMALL, state_size=4),
        "padded": False,  # theirs reads padding
    },
    "t5": T5_CASE | {"theirs": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5))},
    "t5, 1.1": T5_CASE
    | {
        "theirs": lambda: untied(
            tf.T5ForConditionalGeneration(
                tf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
            )
        ),
        "model": models.T5("1.1-small", **HEADS, head_dim=3, hidden_dim=12),
    },
    "t5, a short decoder": T5_CASE
    | {
        "theirs": lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(**T5, num_decoder_layers=1, relative_attention_num_buckets=6)
        ),
        "model": models.T5(**HEADS, head_dim=3, hidden_dim=12, num_decoder_layers=1, num_buckets=6),
    },
    "whisper": {
        "theirs": lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(**WHISPER)),
        "model": models.Whisper(**HEADS, num_positions=20),
        "run": beside_mel,
        "beside": MEL,
        "rules": ["encoder.embed_positions ->"],  # sinusoids
        "padded": False,
    },
    "whisper, a short decoder": {
        "theirs": lambda: tf.WhisperForConditionalGeneration(
            tf.WhisperConfig(**(WHISPER | {"decoder_layers": 1}))
        ),
        "model": models.Whisper(**HEADS, num_positions=20, num_decoder_layers=1),
        "run": beside_mel,
        "beside": MEL,
        "rules": ["encoder.embed_positions ->"],
        "padded": False,
    },
}


def prepared(name):
    """Their model with random weights, ours with the same, and what it reads beside the ids."""
    case = CASES[name]
    torch.manual_seed(0)
    theirs = case["theirs"]().eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    beside = case.get("beside")
    x = IDS if beside is None else (IDS, beside)
    arrays = {key: value.numpy() for key, value in theirs.state_dict().items()}
    plan = jl.interop.match(case["model"], x, arrays, rules=case.get("rules", ()))
    return theirs, case["model"], plan.load(), beside


@pytest.mark.parametrize("name", CASES)
def test_transformers(name):
    theirs, model, weights, beside = prepared(name)
    case = CASES[name]
    run, output = case.get("run", of_ids), case.get("output", "logits")
    masks = [np.ones_like(PADDED), PADDED] if case.get("padded", True) else [np.ones_like(PADDED)]
    # One program: all steps are valid for the first of the masks.
    apply = jax.jit(model.apply)
    for mask in masks:
        ids = jl.Sequence(IDS, mask)
        y, _ = apply(*weights, ids if beside is None else (ids, beside))
        with torch.no_grad():
            want = run(theirs, IDS, mask)[output].numpy()
        if isinstance(y, jl.Sequence):
            y, want = y.values[mask], want[mask]
        assert np.std(want) > 1e-2
        np.testing.assert_allclose(y, want, 0, NEAR * np.abs(want).max())


@pytest.mark.parametrize("name", [name for name in CASES if "mixtral" not in name])
def test_the_way_back(name):
    """All that was matched, and names of one array again; what a rule left out is left out."""
    torch.manual_seed(0)
    case = CASES[name]
    arrays = {key: value.numpy() for key, value in case["theirs"]().state_dict().items()}
    x = (IDS, case["beside"]) if "beside" in case else IDS
    rules = case.get("rules", ())
    plan = jl.interop.match(case["model"], x, arrays, rules=rules)
    back = plan.export(*plan.load())
    out = [key for key in arrays if key not in back]
    assert all(any(key.startswith(rule[:-3], 6) for rule in rules) for key in out), out
    for key, array in back.items():
        np.testing.assert_array_equal(array, arrays[key])


def test_bert_with_segments():
    theirs, model, weights, _ = prepared("bert")
    types = (IDS % 2).astype(IDS.dtype)
    y, _ = jax.jit(model.apply)(*weights, (IDS, types))
    with torch.no_grad():
        want = theirs(torch.tensor(IDS), token_type_ids=torch.tensor(types)).pooler_output.numpy()
    np.testing.assert_allclose(y, want, 0, NEAR * np.abs(want).max())


def test_t5_with_a_padded_source():
    theirs, model, weights, _ = prepared("t5")
    mask = np.arange(9)[None] < [[5], [9]]
    y, _ = jax.jit(model.apply)(*weights, (IDS, jl.Sequence(SOURCE, mask)))
    with torch.no_grad():
        want = theirs(
            input_ids=torch.tensor(SOURCE),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(IDS),
        ).logits.numpy()
    np.testing.assert_allclose(y, want, 0, NEAR * np.abs(want).max())


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "mamba", "t5", "whisper"])
def test_greedy_generation(name):
    theirs, model, weights, beside = prepared(name)
    options = {"max_new_tokens": 5, "do_sample": False}
    if beside is None:
        with torch.no_grad():
            want = theirs.generate(torch.tensor(IDS), **options)[:, IDS.shape[1] :]
        found = jl.decoding.generate(model, *weights, IDS, 5)
    else:
        # Theirs begins with its own first id.
        first = theirs.config.decoder_start_token_id
        given = torch.tensor(beside if name == "t5" else np.moveaxis(beside, 1, 2))
        with torch.no_grad():
            want = greedily(theirs, given, first)
        begin = np.full((2, 1), first)
        found = jl.decoding.generate(model, *weights, begin, 5, context=jnp.asarray(beside))
    assert found.values.tolist() == want.tolist()


def greedily(theirs, given, first):
    """Five ids of an encoder and a decoder, each by the whole decoder.

    ``generate`` of Whisper wants 30 seconds of sound, and sets ids of its own in front.
    """
    memory, ids = theirs.get_encoder()(given), torch.full((2, 1), first)
    for _ in range(5):
        out = theirs(encoder_outputs=memory, decoder_input_ids=ids, use_cache=False)
        ids = torch.cat([ids, out.logits[:, -1:].argmax(-1)], 1)
    return ids[:, 1:]


def test_left_padding_as_transformers_generates():
    """A batch of prompts of different lengths: theirs has padding in front and a mask."""
    theirs, model, weights, _ = prepared("gpt2")
    rows = [IDS[0, :4].tolist(), IDS[1].tolist()]
    ids = np.stack([np.pad(row, (7 - len(row), 0)) for row in rows])
    mask = np.stack([np.pad(np.ones(len(row), int), (7 - len(row), 0)) for row in rows])
    with torch.no_grad():
        want = theirs.generate(
            torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=5, do_sample=False
        )[:, 7:]
    found = jl.decoding.generate(model, *weights, jl.Sequence.from_rows(rows), 5)
    assert found.values.tolist() == want.tolist()


class LSTMs(torch.nn.Module):
    """Zaremba et al.'s network."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        self.lstm = torch.nn.LSTM(8, 8, 2, batch_first=True)
        self.head = torch.nn.Linear(8, 50)

    def forward(self, ids):
        return self.head(self.lstm(self.embed(ids))[0])


@pytest.mark.oracle("PyTorch")
def test_the_lstm_language_model():
    torch.manual_seed(0)
    theirs = LSTMs()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model = models.LSTMLM(**SMALL)
    arrays = {key: value.numpy() for key, value in theirs.state_dict().items()}
    y, _ = jax.jit(model.apply)(*jl.interop.match(model, IDS, arrays).load(), IDS)
    want = theirs(torch.tensor(IDS)).detach().numpy()
    np.testing.assert_allclose(y, want, 0, NEAR * np.abs(want).max())
