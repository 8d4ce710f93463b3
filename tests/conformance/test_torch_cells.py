"""Recurrent layers that PyTorch lacks against loops over its functions: values and gradients."""

import jax
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")

from oracles.against_torch import check_loop, load_random, reference  # noqa: E402

F = torch.nn.functional

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.oracle("PyTorch"),
    pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths"),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def conv(x, kernel, **options):
    """Channels last, and kernels (*kernel_size, in, out)."""
    rank = kernel.dim() - 2
    kernel = kernel.permute(rank + 1, rank, *range(rank))
    y = getattr(F, f"conv{rank}d")(x.movedim(-1, 1), kernel, **options)
    return y.movedim(1, -1)


def gru_step(w, x, h, reset_after, **options):
    """Of images. PyTorch's "same" pads as ours does."""
    size = h.shape[-1]
    left = conv(x, w["kernel"], **options) + w["bias"]
    gates, last = w["recurrent_kernel"].split([2 * size, size], -1)
    r, z = (left[..., : 2 * size] + conv(h, gates, padding="same")).sigmoid().chunk(2, -1)
    if reset_after:
        product = r * (conv(h, last, padding="same") + w["recurrent_bias"])
    else:
        product = conv(r * h, last, padding="same")
    n = (left[..., 2 * size :] + product).tanh()
    return (1 - z) * n + z * h


# ours, PyTorch's options of the input's convolution
CONV_GRU = [
    ({"padding": "SAME"}, {"padding": "same"}),
    ({"padding": "VALID", "reset_after": False}, {}),
    ({"strides": (2, 1, 2), "padding": 1}, {"stride": (2, 1, 2), "padding": 1}),
    ({"dilation": 2, "padding": "SAME", "reset_after": False}, {"dilation": 2, "padding": "same"}),
]


@pytest.mark.parametrize("options", CONV_GRU, ids=lambda options: convert.label(options[0]))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_gru(rank, options):
    ours, theirs = (convert.cut(each, rank) for each in options)
    layer = jl.ConvGRU(3, (2, 3, 2)[:rank], **ours)
    reset_after = ours.get("reset_after", True)

    def loop(w, x):
        h, outputs = None, []
        for t in range(x.shape[1]):
            if h is None:
                like = conv(x[:, t], w["kernel"], **theirs)[..., :3]
                h = torch.zeros_like(like)
            h = gru_step(w, x[:, t], h, reset_after, **theirs)
            outputs.append(h)
        return torch.stack(outputs, 1)

    check_loop(loop, layer, (2, 3, *(6, 5, 4)[:rank], 2))


def over_time(step, carry):
    """``loop(w, x)`` for ``step(w, x, carry) -> carry``, whose first entry is the output."""

    def loop(w, x):
        rows, after, outputs = x.shape[0], None, []
        for t in range(x.shape[1]):
            if after is None:
                after = tuple(torch.zeros(rows, *size, dtype=x.dtype) for size in carry)
            after = step(w, x[:, t], after)
            outputs.append(after[0])
        return torch.stack(outputs, 1)

    return loop


def min_lstm_step(w, x, carry):
    f, i, n = (x @ w["kernel"] + w["bias"]).chunk(3, -1)
    f, i = f.sigmoid(), i.sigmoid()
    return ((f * carry[0] + i * n) / (f + i),)


def ind_rnn_step(w, x, carry):
    return (F.relu(x @ w["kernel"] + w["recurrent_scale"] * carry[0] + w["bias"]),)


def sru_step(w, x, carry):
    _, c = carry
    n, f, r, *s = (x @ w["kernel"]).split(c.shape[-1], -1)
    b_f, b_r = w["bias"].chunk(2)
    v_f, v_r = w["peephole"].chunk(2) if "peephole" in w else (0, 0)
    f, r = (f + v_f * c + b_f).sigmoid(), (r + v_r * c + b_r).sigmoid()
    c = f * c + (1 - f) * n
    return r * c + (1 - r) * (s[0] if s else x), c


def qrnn_step(w, x, carry):
    _, c, before = carry
    steps = torch.cat([before, x[:, None]], 1)
    z, f, *more = (torch.einsum("bki,kio->bo", steps, w["kernel"]) + w["bias"]).split(3, -1)
    f = f.sigmoid()
    i = more[1].sigmoid() if len(more) > 1 else 1 - f
    c = f * c + i * z.tanh()
    return (more[0].sigmoid() * c if more else c), c, steps[:, 1:]


def selective_step(w, x, carry):
    size = w["log_decay"].shape[1]
    r, b, c = (x @ w["select_kernel"]).split([w["step_kernel"].shape[0], size, size], -1)
    d = F.softplus(r @ w["step_kernel"] + w["step_bias"])
    decay = (-d[..., None] * w["log_decay"].exp()).exp()
    state = decay * carry[1] + (d * x)[..., None] * b[:, None]
    return (state * c[:, None]).sum(-1) + w["skip"] * x, state


def mamba_step(w, x, carry):
    _, state, before = carry
    u, gate = (x @ w["in_kernel"]).chunk(2, -1)
    steps = torch.cat([before, u[:, None]], 1)
    u = F.silu((steps * w["conv_kernel"][:, 0]).sum(1) + w["conv_bias"])
    y, state = selective_step(w, u, (None, state))
    return (y * F.silu(gate)) @ w["out_kernel"], state, steps[:, 1:]


def s5_step(w, x, carry):
    rate = torch.complex(-w["log_decay"].exp(), w["frequency"])
    decay = (rate * w["log_step"].exp()).exp()
    state = torch.view_as_complex(carry[1].contiguous())
    write, read = torch.view_as_complex(w["write"]), torch.view_as_complex(w["read"])
    state = decay * state + (decay - 1) / rate * (x.to(write.dtype) @ write.T)
    return 2 * (state @ read.T).real + w["skip"] * x, torch.view_as_real(state)


def linear_attention_step(w, x, carry):
    _, state, total = carry
    q, k, v = (
        (x @ w[f"{name}_kernel"] + w[f"{name}_bias"]).unflatten(-1, (2, 3))
        for name in ("query", "key", "value")
    )
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state, total = state + k[..., None] * v[..., None, :], total + k
    y = (q[..., None, :] @ state)[..., 0, :] / ((q * total).sum(-1, keepdim=True) + 1e-6)
    return y.flatten(1) @ w["out_kernel"] + w["out_bias"], state, total


def mlstm_step(w, x, carry):
    _, state, total = carry
    q, k, v, o = (part.unflatten(-1, (2, 3)) for part in (x @ w["kernel"] + w["bias"]).chunk(4, -1))
    i, f = (x @ w["gate_kernel"] + w["gate_bias"]).chunk(2, -1)
    i, f, k = i.exp()[..., None], f.sigmoid()[..., None], k / 3**0.5
    state = f[..., None] * state + i[..., None] * k[..., None] * v[..., None, :]
    total = f * total + i * k
    size = torch.clamp((q * total).sum(-1, keepdim=True).abs(), min=1)
    return (o.sigmoid() * (q[..., None, :] @ state)[..., 0, :] / size).flatten(1), state, total


def slstm_step(w, x, carry):
    h, c, n = carry
    recurrent = torch.einsum("bhk,hkn->bhn", h.unflatten(-1, (2, 3)), w["recurrent_kernel"])
    recurrent = recurrent.unflatten(-1, (4, 3)).transpose(1, 2).flatten(1)
    i, f, g, o = (x @ w["kernel"] + w["bias"] + recurrent).chunk(4, -1)
    c = f.sigmoid() * c + i.exp() * g.tanh()
    n = f.sigmoid() * n + i.exp()
    return o.sigmoid() * c / n, c, n


def delta_step(w, x, carry):
    _, state, before = carry
    mixed = x @ w["kernel"]
    steps = torch.cat([before, mixed[:, None]], 1)
    mixed = F.silu((steps * w["conv_kernel"][:, 0]).sum(1))
    q, k, v = (part.unflatten(-1, (2, -1)) for part in mixed.split([6, 6, 4], -1))
    q, k = (part * (part.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for part in (q, k))
    beta = (x @ w["write_kernel"]).sigmoid()[..., None, None]
    rate = w["log_decay"].exp() * F.softplus(x @ w["decay_kernel"] + w["step_bias"])
    kept = (-rate).exp()[..., None, None] * state
    missing = v[..., None, :] - k[..., None, :] @ kept
    state = kept + beta * k[..., None] * missing
    y = (q[..., None, :] @ state)[..., 0, :] / 3**0.5
    y = F.rms_norm(y, (2,), w["scale"], 1e-6).flatten(1)
    return (y * F.silu(x @ w["gate_kernel"])) @ w["out_kernel"], state, steps[:, 1:]


CELLS = {
    "linear attention": (
        jl.LinearAttention(2, head_dim=3),
        linear_attention_step,
        [(4,), (2, 3, 3), (2, 3)],
    ),
    "mlstm": (jl.MLSTM(6, 2), mlstm_step, [(6,), (2, 3, 3), (2, 3)]),
    "slstm": (jl.SLSTM(6, 2), slstm_step, [(6,), (6,), (6,)]),
    "gated delta net": (
        jl.GatedDeltaNet(2, head_dim=3, value_dim=2),
        delta_step,
        [(4,), (2, 3, 2), (3, 16)],
        70,
    ),
    # More steps than are in memory at once.
    "selective ssm": (jl.SelectiveSSM(3), selective_step, [(4,), (4, 3)], 70),
    "mamba": (jl.Mamba(3), mamba_step, [(4,), (8, 3), (3, 8)]),
    "s5": (jl.S5(3), s5_step, [(4,), (3, 2)]),
    "min lstm": (jl.MinLSTM(3), min_lstm_step, [(3,)]),
    "ind rnn": (jl.IndRNN(3), ind_rnn_step, [(3,)]),
    "sru": (jl.SRU(3), sru_step, [(3,), (3,)]),
    "sru, linear, as wide as the input": (jl.SRU(4, peephole=False), sru_step, [(4,), (4,)]),
    "qrnn": (jl.QRNN(3, 3), qrnn_step, [(3,), (3,), (2, 4)]),
    "qrnn, f": (jl.QRNN(3, 2, pooling="f"), qrnn_step, [(3,), (3,), (1, 4)]),
    "qrnn, ifo": (jl.QRNN(3, 2, pooling="ifo"), qrnn_step, [(3,), (3,), (1, 4)]),
}


@pytest.mark.parametrize("name", CELLS)
def test_cell(name):
    layer, step, carry, *steps = CELLS[name]
    check_loop(over_time(step, carry), layer, (2, *(steps or [5]), 4))


def test_mamba_of_transformers():
    """With their weights, where the package is installed; 40 steps are two chunks."""
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    sizes = {"hidden_size": 4, "state_size": 3, "conv_kernel": 3, "time_step_rank": 2}
    config = modeling.MambaConfig(num_hidden_layers=1, expand=2, use_bias=True, **sizes)
    module = modeling.MambaMixer(config, 0).double().eval()

    def conversion(w):
        return {
            "in_kernel": w["in_proj.weight"].T,
            "in_bias": w["in_proj.bias"],
            "conv_kernel": w["conv1d.weight"].transpose(2, 1, 0),
            "conv_bias": w["conv1d.bias"],
            "select_kernel": w["x_proj.weight"].T,
            "step_kernel": w["dt_proj.weight"].T,
            "step_bias": w["dt_proj.bias"],
            "log_decay": w["A_log"],
            "skip": w["D"],
            "out_kernel": w["out_proj.weight"].T,
            "out_bias": w["out_proj.bias"],
        }

    check_in_float32(module, jl.Mamba(3, kernel_size=3, step_rank=2, bias=True), 40, conversion)


def check_in_float32(module, layer, steps, conversion):
    """As theirs computes in, whatever the dtype of its weights."""
    apply = jl.without_state(layer).apply
    x = convert.draw_input((2, steps, 4), "float64")
    weights = load_random(module)
    wanted = reference(module, module, x)
    got = convert.value_and_gradients(lambda w, x: apply(conversion(w), x), weights, x)
    convert.agree(*(jax.tree.map(np.float32, both) for both in (wanted, got)))


def test_gated_delta_net_of_transformers():
    """As in Qwen3-Next, whose projections are ordered head by head; two chunks."""
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    config = modeling.Qwen3NextConfig(
        hidden_size=4,
        num_hidden_layers=1,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=3,
        linear_value_head_dim=2,
        linear_conv_kernel_dim=3,
        layer_types=["linear_attention"],
    )
    module = modeling.Qwen3NextGatedDeltaNet(config, 0).double().eval()

    def conversion(w):
        by_head = w["in_proj_qkvz.weight"].reshape(2, 10, 4)
        q, k, v, z = (part.reshape(-1, 4).T for part in jax.numpy.split(by_head, [3, 6, 8], axis=1))
        b, a = (
            part.T for part in jax.numpy.moveaxis(w["in_proj_ba.weight"].reshape(2, 2, 4), 1, 0)
        )
        return {
            "kernel": jax.numpy.concatenate([q, k, v], 1),
            "conv_kernel": w["conv1d.weight"].transpose(2, 1, 0),
            "write_kernel": b,
            "decay_kernel": a,
            "step_bias": w["dt_bias"],
            "log_decay": w["A_log"],
            "gate_kernel": z,
            "scale": w["norm.weight"],
            "out_kernel": w["out_proj.weight"].T,
        }

    layer = jl.GatedDeltaNet(2, head_dim=3, value_dim=2, kernel_size=3)
    check_in_float32(module, layer, 70, conversion)


def test_mamba2_of_transformers():
    """Two groups, and two chunks of ours and of theirs."""
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    sizes = {"hidden_size": 4, "state_size": 3, "conv_kernel": 3, "num_heads": 4, "head_dim": 2}
    config = modeling.Mamba2Config(
        num_hidden_layers=1, expand=2, n_groups=2, use_bias=True, chunk_size=40, **sizes
    )
    module = modeling.Mamba2Mixer(config, 0).double().eval()

    def conversion(w):
        return {
            "in_kernel": w["in_proj.weight"].T,
            "in_bias": w["in_proj.bias"],
            "conv_kernel": w["conv1d.weight"].transpose(2, 1, 0),
            "conv_bias": w["conv1d.bias"],
            "step_bias": w["dt_bias"],
            "log_decay": w["A_log"],
            "skip": w["D"],
            "scale": w["norm.weight"],
            "out_kernel": w["out_proj.weight"].T,
            "out_bias": w["out_proj.bias"],
        }

    layer = jl.Mamba2(3, head_dim=2, num_groups=2, kernel_size=3, bias=True)
    check_in_float32(module, layer, 70, conversion)


def test_mlstm_of_transformers():
    """Their recurrence, step by step, from our projections; without what it adds to |q n|."""
    modeling = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    double = {"eps": 0.0, "dtype_state": torch.float64}

    def loop(w, x):
        state = [torch.zeros(2, 2, *size, dtype=torch.float64) for size in ((3, 3), (3,), (1,))]
        outputs = []
        for t in range(x.shape[1]):
            q, k, v, o = (
                part.unflatten(-1, (2, 3))
                for part in (x[:, t] @ w["kernel"] + w["bias"]).chunk(4, -1)
            )
            gates = (x[:, t] @ w["gate_kernel"] + w["gate_bias"]).chunk(2, -1)
            i, f = (gate[..., None] for gate in gates)
            h, state = modeling.mlstm_recurrent_step_native(q, k, v, i, f, *state, **double)
            outputs.append((o.sigmoid() * h).flatten(1))
        return torch.stack(outputs, 1)

    check_loop(loop, jl.MLSTM(6, 2), (2, 5, 4))
