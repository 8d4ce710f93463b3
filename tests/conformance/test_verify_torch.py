"""A torch module beside ours, layer by layer, and the mistakes that this finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
verify, match = jl.interop.verify, jl.interop.match
PAD = ((1, 1), (1, 1))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def arrays_of(net):
    """Its arrays, none of which is what it is initialised with: zeros and ones hide mistakes."""
    with torch.no_grad():
        for each in (*net.parameters(), *net.buffers()):
            if each.is_floating_point():
                each.add_(0.1 + 0.1 * torch.rand_like(each))
    return {name: array.numpy() for name, array in net.state_dict().items()}


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.c2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.c2(self.act(self.bn(self.c1(x))))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        Residual(8),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8 * 2 * 2, 5),
    )


def our_conv_net(padding=PAD, epsilon=1e-5):
    body = jl.serial(
        jl.Conv(8, 3, padding=PAD),
        jl.BatchNorm(epsilon=epsilon),
        jax.nn.relu,
        jl.Conv(8, 3, padding=PAD),
    )
    return jl.serial(
        jl.Conv(8, 3, strides=2, padding=padding),
        jax.nn.relu,
        res=jl.residual(body),
        pool=jl.MaxPool(2),
        flat=jl.Flatten(),
        drop=jl.Dropout(0.5),
        head=jl.Dense(5),
    )


IMAGES = jl.spec((2, 8, 8, 3))


def test_conv_net():
    net = conv_net()
    plan = match(our_conv_net(), IMAGES, arrays_of(net))
    params, state = plan.load()
    net.train()
    net[2].eval()

    def check(model, params, plan=None):
        return verify(model, params, state, net, IMAGES, channels_first=True, plan=plan)

    for given in plan, None:
        report = check(our_conv_net(), params, given)
        assert report.ok
        assert {row.path: row.theirs for row in report.rows} == {
            "conv": "0",
            "relu": "1",
            "res/body/conv": "2.c1",
            "res/body/batch_norm": "2.bn",
            "res/body/relu": "2.act",
            "res/body/conv_1": "2.c2",
            "res/body": "2.c2",
            "res": "2",
            "pool": "3",
            "flat": "4",
            "drop": "5",
            "head": "6",
            "": "",
        }
        assert report.theirs_unpaired == ()
    # The flags are as they were, and no hook is left.
    assert [module.training for module in net.modules()] == [True] * 3 + [False] * 5 + [True] * 4
    assert not any(module._forward_hooks for module in net.modules())

    turned = jax.tree.map(lambda leaf: leaf, params)
    kernel = turned["res"]["body"]["conv_1"]["kernel"]
    turned["res"]["body"]["conv_1"]["kernel"] = jnp.flip(kernel, (0, 1))
    report = check(our_conv_net(), turned, plan)
    assert (report.first.path, report.hint) == (
        "res/body/conv_1",
        "it agrees with 'kernel' turned",
    )
    # Of an even size, SAME with strides pads on the right alone.
    report = check(our_conv_net(padding="SAME"), params)
    assert (report.first.path, report.hint) == (
        "conv",
        "it agrees with padding=((1, 1), (1, 1))",
    )
    report = check(our_conv_net(epsilon=1e-3), params, plan)
    assert (report.first.path, report.hint) == (
        "res/body/batch_norm",
        "it agrees with epsilon=1e-05",
    )


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = nn.LSTM(6, 5, 2, bidirectional=True)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.head = nn.Linear(4, 11)

    def forward(self, ids):
        y, _ = self.rnn(self.embed(ids))
        return self.head(self.gru(y.transpose(0, 1))[0])


def test_recurrent_layers_of_ids_with_time_first():
    model = jl.serial(
        jl.Embedding(11, 6),
        jl.bidirectional(jl.LSTM(5)),
        jl.bidirectional(jl.LSTM(5)),
        jl.GRU(4),
        jl.Dense(11),
    )
    net, ids = Tagger(), jl.spec((3, 7), jnp.int32)
    plan = match(model, ids, arrays_of(net))
    params, state = plan.load()

    def check(params):
        turned = lambda ids: ids.T  # noqa: E731
        return verify(model, params, state, net, ids, to_reference=turned, plan=plan)

    report = check(params)
    assert report.ok
    rows = {row.path: (row.theirs, row.layout) for row in report.rows}
    assert rows["embedding"] == ("embed", "time first")
    assert rows["bidirectional_1"] == ("rnn", "time first")
    assert rows["gru"] == ("gru", "")
    assert "bidirectional" in report.unpaired
    # Gates as Keras stores them.
    own = params["gru"]
    swapped = {
        name: jnp.concatenate([own[name][..., 4:8], own[name][..., :4], own[name][..., 8:]], -1)
        for name in ("kernel", "recurrent_kernel", "bias")
    }
    report = check(params | {"gru": own | swapped})
    assert report.first.path == "gru"
    assert report.hint == "it agrees where its gates are taken to be stored as z, r, n"


def test_transformer_in_repeat():
    def model(gelu):
        block = jl.serial(
            attn=jl.residual(jl.serial(jl.LayerNorm(), jl.SelfAttention(2))),
            mlp=jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(16), gelu, jl.Dense(8))),
        )
        return jl.serial(blocks=jl.repeat(block, 2))

    layer = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True, activation="gelu", norm_first=True
    )
    net, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), jl.spec((2, 5, 8))
    exact = model(lambda x: jax.nn.gelu(x, approximate=False))
    plan = match(exact, x, arrays_of(net))
    params, state = plan.load()
    report = verify(exact, params, state, net, x)
    assert report.ok
    rows = {row.theirs: row.path for row in report.rows}
    assert rows["layers.1.self_attn"] == "blocks/1/attn/body/self_attention"
    assert rows["layers.0.linear2"] == "blocks/0/mlp/body/dense_1"
    report = verify(model(jax.nn.gelu), params, state, net, x, plan=plan)
    assert report.first.path == "blocks/0/mlp/body/gelu"
    assert report.hint == "it agrees as jax.nn.gelu(approximate=False)"
    swapped = jax.tree.map(lambda leaf: leaf[::-1], params)
    report = verify(exact, swapped, state, net, x, plan=plan)
    assert report.first.path == "blocks/0/attn/body/layer_norm"
    assert report.hint == "it agrees with the arrays of 'blocks/1/attn/body/layer_norm'"


@pytest.mark.parametrize("rows", [1, 2])
def test_positions_of_one_row_have_the_shape_of_what_they_are_added_to(rows):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wpe, self.head = nn.Embedding(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(x + self.wpe(torch.arange(5)))

    net, x = Net().eval(), jl.spec((rows, 5, 8))
    model = jl.serial(positions=jl.PositionEmbedding(5), head=jl.Dense(3))
    plan = match(model, x, arrays_of(net))
    report = verify(model, *plan.load(), net, x, plan=plan)
    report.check()
    assert "head" in {row.path for row in report.rows}


def test_modules_that_give_more_than_one_tensor_and_scripts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, scale):
            return {"y": self.fc(x) * scale, "h": x}

    net = Two()
    params, _ = match(jl.serial(jl.Dense(3)), jl.spec((6, 4)), arrays_of(net)).load()
    model = jl.serial(jl.Dense(3), lambda x: 2 * x)
    x = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")

    def arguments(x):
        return {"x": x, "scale": np.float32(2)}

    report = verify(model, params, {}, net, x, to_reference=arguments)
    assert [(row.path, row.theirs) for row in report.rows] == [
        ("dense", "fc"),
        ("lambda", "(output) y"),
        ("", "(output) y"),
    ]
    assert report.theirs_unpaired == ("(output) h",)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        script = torch.jit.trace(nn.Sequential(net.fc, nn.Tanh()), torch.zeros(6, 4))
    report = verify(jl.serial(jl.Dense(3), jnp.tanh), params, {}, script, x)
    assert report.ok
    assert report.unpaired == ("dense",)


def test_a_module_that_fails_is_left_as_it_was():
    net = conv_net().train()
    with pytest.raises(jl.InteropError) as raised:
        verify(our_conv_net(), {}, {}, net, IMAGES)
    text = str(raised.value)
    assert "a torch.nn.Module, does not take the input" in text
    assert "float32[2, 8, 8, 3]: RuntimeError" in text
    assert "hint:     channels_first=True, or to_reference=lambda x: ..." in text
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
