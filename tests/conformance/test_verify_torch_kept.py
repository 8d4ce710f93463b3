"""A torch module beside ours: whatever it does, it is left as it was; and its dtypes."""

import copy

import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
X = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
MODEL = jl.serial(jl.Dense(3))


def params_of(net):
    weight, bias = (each.detach().numpy() for each in (net.weight, net.bias))
    return {"dense": {"kernel": weight.T, "bias": bias}}


def everything(net):
    return (
        [each.training for each in net.modules()],
        [len(each._forward_hooks) for each in net.modules()],
        [id(each) for each in net.buffers()],
        [each.clone() for each in net.buffers()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    assert before[:3] == after[:3]
    for one, other in zip((*before[3], before[4]), (*after[3], after[4]), strict=True):
        assert torch.equal(one, other)


class Stubborn(nn.Module):
    """Trains its norm in evaluation, counts in two ways, draws, and may fail at last."""

    def __init__(self, fails, rate):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.fails, self.rate = fails, rate

    def forward(self, x):
        self.norm.train()
        self.norm(x)
        self.calls = self.calls + 1
        y = self.fc(x + self.rate * torch.randn(6))
        if self.fails:
            raise RuntimeError("at last")
        return y


def test_a_module_that_changes_itself_is_left_as_it_was():
    net = Stubborn(False, 0).train()
    before = everything(net)
    jl.interop.verify(MODEL, params_of(net.fc), {}, net, X).check()
    assert_same(before, everything(net))
    net.fails = True
    with pytest.raises(jl.InteropError, match="RuntimeError: at last"):
        jl.interop.verify(MODEL, params_of(net.fc), {}, net, X)
    assert_same(before, everything(net))


def test_a_random_module_is_found():
    net = Stubborn(False, 1).eval()
    before = everything(net)
    report = jl.interop.verify(MODEL, params_of(net.fc), {}, net, X)
    assert report.hint == "the original is not the same each time it runs, first at 'fc'"
    assert_same(before, everything(net))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype):
    """The input is in that of the parameters, and the tolerance too."""
    net = nn.Sequential(nn.Linear(6, 3))
    changed = copy.deepcopy(net).to(getattr(torch, dtype))
    report = jl.interop.verify(MODEL, params_of(net[0]), {}, changed, X)
    report.check()
    limit = {"float16": 1e-2, "bfloat16": 3e-2, "float64": 1e-5}[dtype]
    assert report.first is None
    assert report.rows[0].tolerance == limit
    wrong = {"dense": {"kernel": params_of(net[0])["dense"]["kernel"][::-1], "bias": np.zeros(3)}}
    wrong = {"dense": {n: a.astype("float32") for n, a in wrong["dense"].items()}}
    assert not jl.interop.verify(MODEL, wrong, {}, changed, X).ok


def test_a_module_that_runs_twice_is_two_calls():
    shared = nn.Linear(6, 6)
    model = jl.compose(lambda f, x: f.a(f.a(x)), a=jl.Dense(6))
    params = {"a": params_of(shared)["dense"]}
    report = jl.interop.verify(model, params, {}, nn.Sequential(shared, nn.Tanh(), shared), X)
    assert report.first.path == "a#2"
    report = jl.interop.verify(model, params, {}, nn.Sequential(shared, shared), X)
    report.check()
    assert [row.path for row in report.rows] == ["a", "a#2", ""]


def test_an_output_without_tensors():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(jl.InteropError) as raised:
        jl.interop.verify(lambda x: x, {}, {}, Silent(), X)
    assert "the original's output holds no tensor" in str(raised.value)
    assert "got:      NoneType" in str(raised.value)


def test_outputs_of_transformers():
    """A ``ModelOutput``, by its names; what it leaves out is left out."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        output_hidden_states=True,
    )
    net = transformers.BertModel(config).eval()
    ids = np.arange(6).reshape(2, 3)
    with torch.no_grad():
        given = net(torch.tensor(ids))
    there = {name: np.asarray(given[name]) for name in ("pooler_output", "last_hidden_state")}

    def model(changed):
        last, pooled = there["last_hidden_state"], changed * there["pooler_output"]
        return lambda ids: {"pooler_output": pooled, "last_hidden_state": last}

    report = jl.interop.verify(model(1), {}, {}, net, ids)
    report.check()
    assert [row.theirs for row in report.outputs] == [
        "(output) last_hidden_state",
        "(output) pooler_output",
    ]
    assert "(output) hidden_states.0" in report.theirs_unpaired
    report = jl.interop.verify(model(2), {}, {}, net, ids)
    assert report.first.path == "(output) pooler_output"
