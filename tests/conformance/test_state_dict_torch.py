"""export_state_dict and write: PyTorch loads what was written here, and computes the same."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from oracles.torch_modules import Attention, Rows

import jlayers as jl
from jlayers.interop.formats import torch_writing

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
F = jl.interop


def both(layer):
    """One layer of two directions here, as it is called there."""
    theirs = f"{layer}.layer"
    return [
        f"{layer}/forward -> {theirs}",
        f"{layer}/backward/*_*_l0 -> {theirs}/*_*_l0_reverse",
    ]


def encoder_block():
    mlp = jl.serial(expand=jl.Dense(7), activation=jax.nn.relu, contract=jl.Dense(6))
    return jl.TransformerBlock(jl.SelfAttention(2, bias=True), mlp, norm_first=False)


CASES = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.PReLU()),
        jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(8), jl.PReLU()),
        ["dense -> 0", "dense_1 -> 2", "p_re_lu -> 3"],
        (2, 4),
    ),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=2, padding=1),
            nn.GroupNorm(2, 6),
            nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
            nn.Flatten(),
            nn.Linear(4 * 8 * 6, 5, bias=False),
        ),
        jl.serial(
            jl.Conv(6, 3, padding=1),
            jl.BatchNorm(),
            jax.nn.relu,
            jl.Conv(6, 3, groups=2, padding=1),
            jl.GroupNorm(2),
            jl.ConvTranspose(4, 2, strides=2, groups=2),
            jl.Flatten(),
            jl.Dense(5, bias=False),
        ),
        [
            *("conv -> 0", "batch_norm -> 1", "conv_1 -> 3"),
            *("group_norm -> 4", "conv_transpose -> 5", "dense -> 7"),
        ],
        (2, 4, 3, 4),
    ),
    "both directions": (
        lambda: nn.Sequential(
            Rows(nn.LSTM(4, 3, bidirectional=True, batch_first=True)),
            Rows(nn.GRU(6, 3, bidirectional=True, batch_first=True)),
            Rows(nn.LSTM(6, 5, proj_size=2, bias=False, batch_first=True)),
            Rows(nn.RNN(2, 3, batch_first=True)),
        ),
        jl.serial(
            jl.bidirectional(jl.LSTM(3)),
            jl.bidirectional(jl.GRU(3)),
            jl.LSTM(5, projection=2, bias=False),
            jl.SimpleRNN(3),
        ),
        [
            *both("bidirectional"),
            *both("bidirectional_1"),
            *("bidirectional -> 0", "bidirectional_1 -> 1"),
            *("lstm -> 2/layer", "simple_rnn -> 3/layer"),
        ],
        (2, 5, 4),
    ),
    "attention": (
        lambda: nn.Sequential(nn.LayerNorm(6), Attention(), nn.RMSNorm(6)),
        jl.serial(jl.LayerNorm(), jl.SelfAttention(2, bias=True), jl.RMSNorm(epsilon=1e-6)),
        ["layer_norm -> 0", "self_attention -> 1/attend", "rms_norm -> 2"],
        (2, 5, 6),
    ),
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 7, dropout=0.0, batch_first=True),
            3,
            enable_nested_tensor=False,
        ),
        jl.serial(layers=jl.repeat(encoder_block(), 3)),
        [
            "layers/*/attend -> layers/*/self_attn",
            "layers/*/norm_attend -> layers/*/norm1",
            "layers/*/mlp/expand -> layers/*/linear1",
            "layers/*/mlp/contract -> layers/*/linear2",
            "layers/*/norm_mlp -> layers/*/norm2",
        ],
        (2, 5, 6),
    ),
}


def drawn(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: (0.5 * rng.standard_normal(a.shape)).astype(a.dtype), jax.device_get(tree)
    )


@pytest.mark.oracle("PyTorch")
@pytest.mark.parametrize("name", CASES)
def test_a_module_loads_it_and_computes_the_same(name, tmp_path):
    make, ours, rules, shape = CASES[name]
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    params, state = jax.jit(ours.init)(jax.random.key(0), x)
    params, state = drawn(params), jax.tree.map(lambda a: abs(a) + 0.5, drawn(state))
    arrays = F.export_state_dict(ours, x, params, state, rules=rules)
    file = F.write(tmp_path / "model.pt", arrays)
    theirs = make().eval()
    theirs.load_state_dict(torch.load(file, weights_only=True), strict=True)
    given = torch.tensor(np.moveaxis(x, -1, 1) if len(shape) == 4 else x)
    want = theirs(given).detach().numpy()
    y, _ = jax.jit(ours.apply)(params, state, x)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    # And back: the file is matched, and gives the same parameters and state to the last bit.
    plan = F.match(ours, x, F.read(file), library="torch")
    for have, want in zip(
        jax.tree.leaves(plan.load()), jax.tree.leaves((params, state)), strict=True
    ):
        np.testing.assert_array_equal(have, want)


def test_a_file_that_was_read_is_written_under_its_own_names(tmp_path):
    """Also with two layers and both directions in one module, and with tied weights."""

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.rows = nn.LSTM(4, 2, 2, bidirectional=True, batch_first=True)
            self.norm = nn.BatchNorm1d(4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.table.weight

    torch.manual_seed(0)
    theirs = Tagger()
    theirs.norm.num_batches_tracked.fill_(11)
    torch.save(theirs.state_dict(), tmp_path / "first.pt")
    rows = [jl.bidirectional(jl.LSTM(2)) for _ in range(2)]
    ours = jl.serial(jl.Embedding(7, 4), *rows, jl.BatchNorm())
    x = jnp.zeros((2, 3), int)
    plan = F.match(ours, x, F.read(tmp_path / "first.pt"), rules=["out ->"])
    params, state = plan.load()
    trained = jax.tree.map(lambda a: 2 * a, params)
    second = F.write(tmp_path / "second.pt", plan.export(trained, state))
    loaded = torch.load(second, weights_only=True)
    assert loaded["out.weight"].data_ptr() == loaded["table.weight"].data_ptr()
    want = {
        name: value if "running" in name or "tracked" in name else 2 * value
        for name, value in theirs.state_dict().items()
    }
    # Of two biases, the first has the sum of both.
    for bias in [name for name in want if "bias_ih" in name]:
        other = bias.replace("ih", "hh")
        want |= {bias: want[bias] + want[other], other: torch.zeros_like(want[other])}
    assert loaded.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


DTYPES = ["float16", "bfloat16", "float64", "int64", "uint8", "bool", "complex64"]
DTYPES += ["float8_e4m3fn", "float8_e5m2", "uint16", "uint64"]


@pytest.mark.parametrize("large", [torch_writing._ZIP64, 1])
def test_files_of_all_dtypes(large, tmp_path, monkeypatch):
    """Also with the headers that entries beyond 2 GiB have."""
    monkeypatch.setattr(torch_writing, "_ZIP64", large)
    rng = np.random.default_rng(0)
    arrays = {
        name: (3 * rng.standard_normal((2, 3))).astype(
            getattr(ml_dtypes, name) if "float8" in name or name == "bfloat16" else name
        )
        for name in DTYPES
    }
    arrays |= {"scalar": np.float32(3), "empty": np.zeros((0, 3)), "turned": np.eye(3)[:, 1:].T}
    arrays |= {"again": arrays["float16"], "flat": arrays["float16"].reshape(-1)}
    file = F.write(tmp_path / "all.bin", arrays)
    for mapped in (False, True):
        loaded = torch.load(file, weights_only=True, mmap=mapped)
        assert list(loaded) == list(arrays)
        for name, array in arrays.items():
            assert tuple(loaded[name].shape) == array.shape
            have = loaded[name].contiguous().flatten().view(torch.uint8)
            np.testing.assert_array_equal(have, np.asarray(array).reshape(-1).view(np.uint8), name)
            assert loaded[name].dtype == getattr(torch, str(array.dtype))
            assert loaded[name].data_ptr() % 64 == 0 or not mapped or not array.size
        assert loaded["flat"].data_ptr() == loaded["float16"].data_ptr()


def test_transformers_takes_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    theirs = transformers.GPT2Model(config)
    theirs.save_pretrained(tmp_path)
    mlp = jl.serial(jl.Dense(24), lambda x: jax.nn.gelu(x, approximate=True), jl.Dense(6))
    block = jl.TransformerBlock(jl.SelfAttention(2, bias=True, causal=True), mlp)
    ours = jl.serial(
        jl.Embedding(11, 6), jl.PositionEmbedding(8), jl.repeat(block, 2), jl.LayerNorm()
    )
    ids = np.array([[1, 5, 2, 9]])
    rules = ["wpe.weight -> position_embedding.embedding"]
    plan = F.match(ours, jnp.asarray(ids), F.read(tmp_path), rules=rules)
    params = jax.tree.map(lambda a: 1.5 * a, plan.load()[0])
    F.write(tmp_path / "model.safetensors", plan.export(params))
    again = transformers.GPT2Model.from_pretrained(tmp_path).eval()
    want = again(torch.tensor(ids)).last_hidden_state.detach().numpy()
    y, _ = jax.jit(ours.apply)(params, {}, ids)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
