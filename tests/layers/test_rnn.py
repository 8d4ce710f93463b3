"""RNN over cells: the short forms, the cells by themselves, cells of users, and the errors."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES
from tables.tiers import sample

import jlayers as jl
from jlayers.testing import check_sequence

STEPS = jl.spec((2, 5, 3))
SHORT_FORMS = {
    jl.LSTM: jl.LSTMCell,
    jl.GRU: jl.GRUCell,
    jl.SimpleRNN: jl.SimpleRNNCell,
    jl.MinGRU: jl.MinGRUCell,
    jl.LinearRecurrence: jl.LinearRecurrenceCell,
    jl.ConvLSTM: jl.ConvLSTMCell,
    jl.ConvGRU: jl.ConvGRUCell,
    jl.MGU: jl.MGUCell,
    jl.MinLSTM: jl.MinLSTMCell,
    jl.IndRNN: jl.IndRNNCell,
    jl.SRU: jl.SRUCell,
    jl.QRNN: jl.QRNNCell,
    jl.SelectiveSSM: jl.SelectiveSSMCell,
    jl.Mamba: jl.MambaCell,
    jl.S5: jl.S5Cell,
    jl.Mamba2: jl.Mamba2Cell,
    jl.LinearAttention: jl.LinearAttentionCell,
    jl.MLSTM: jl.MLSTMCell,
    jl.SLSTM: jl.SLSTMCell,
    jl.GatedDeltaNet: jl.GatedDeltaNetCell,
}
NORMAL = jax.nn.initializers.normal()
# (short form, options of the cell, options of the loop)
GRID = [
    (jl.LSTM, {}, {}),
    (jl.LSTM, {"bias": False}, {"reverse": True}),
    (jl.LSTM, {"kernel_init": NORMAL, "bias_init": NORMAL}, {"method": "recompute"}),
    (jl.LSTM, {"peephole": True, "coupled": True}, {"trainable_carry": True}),
    (jl.LSTM, {"projection": 2, "layer_norm": True}, {"return_sequences": False}),
    (jl.LSTM, {"clip": 0.5, "cell_clip": 0.2}, {"zoneout": 0.3, "recurrent_dropout": 0.5}),
    (jl.GRU, {}, {"trainable_carry": True}),
    (jl.GRU, {"reset_after": False, "layer_norm": True}, {"zoneout": 0.2}),
    (jl.GRU, {"clip": 0.5, "bias": False}, {"reverse": True, "method": "recompute"}),
    (jl.SimpleRNN, {"activation": jax.nn.relu}, {}),
    (jl.SimpleRNN, {"layer_norm": True, "clip": 0.5}, {"recurrent_dropout": 0.3}),
    (jl.MinGRU, {"bias": False}, {"trainable_carry": True}),
    (jl.LinearRecurrence, {}, {"reverse": True}),
    (jl.LinearRecurrence, {"project": False}, {"return_sequences": False}),
    (jl.ConvLSTM, {"kernel_size": (2, 3)}, {"zoneout": 0.2}),
    (jl.ConvGRU, {"kernel_size": 2, "padding": "VALID"}, {"reverse": True}),
    (jl.MGU, {"reset_gate": False}, {"trainable_carry": True}),
    (jl.MinLSTM, {"activation": jnp.tanh}, {}),
    (jl.IndRNN, {"bias": False}, {"recurrent_dropout": 0.3}),
    (jl.SRU, {"peephole": False}, {"reverse": True}),
    (jl.QRNN, {"window": 3, "pooling": "ifo"}, {"trainable_carry": True}),
]
IMAGES = (jl.ConvLSTM, jl.ConvGRU)


def input_of(short_form):
    shape = (2, 5, 4, 3, 2) if short_form in IMAGES else STEPS.shape
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize(
    ("short_form", "of_cell", "of_loop"),
    # An LSTM without options, and one with those of cell and loop.
    [
        pytest.param(*case, marks=[pytest.mark.full] * (i not in (0, 5)))
        for i, case in enumerate(GRID)
    ],
    ids=lambda part: part.__name__ if callable(part) else ",".join(part),
)
def test_a_short_form_is_rnn_of_its_cell(short_form, of_cell, of_loop):
    """Equal initial values, and equal programs of values and gradients."""
    short = short_form(3, **of_cell, **of_loop)
    long = jl.RNN(SHORT_FORMS[short_form](3, **of_cell), **of_loop)
    x, key = input_of(short_form), jax.random.key(2)
    params, _ = short.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, long.init(jax.random.key(0), x)[0])
    mask = jnp.arange(x.shape[1])[None] < jnp.asarray([[3], [5]])

    def program(layer, given, train):
        def loss(params, x):
            y, _ = layer.apply(params, {}, given(x), key=key, train=train)
            return jnp.sum(y.fill() if isinstance(y, jl.Sequence) else y)

        text = str(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(params, x))
        return re.sub("0x[0-9a-f]+", "", text)

    for given, train in ((lambda x: x, False), (lambda x: (jl.Sequence(x, mask), ~mask), True)):
        assert program(short, given, train) == program(long, given, train)
    rows = [
        [(row.operation, row.method) for row in jl.explain(layer, x).decisions]
        for layer in (short, long)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("short_form", SHORT_FORMS, ids=lambda f: f.__name__)
def test_a_short_form_has_the_options_of_both(short_form):
    """With the defaults of both, so that an option is documented in one place."""
    have, cell, loop = (
        dict(inspect.signature(f).parameters) for f in (short_form, SHORT_FORMS[short_form], jl.RNN)
    )
    assert cell.keys() <= have.keys() <= cell.keys() | loop.keys()
    for name, parameter in have.items():
        wanted = (cell if name in cell else loop)[name]
        assert parameter.kind == wanted.kind
        same = parameter.default == wanted.default
        # Initialisers made by a function are equal by where they come from.
        made = getattr(parameter.default, "__qualname__", 1)
        assert same or made == getattr(wanted.default, "__qualname__", 2), name


def test_the_program_of_an_lstm_has_the_custom_rule():
    """The gradient stores no gates with "recompute", which JAX's own gradient of a scan would."""
    x = jl.spec((2, 24, 5))
    params, _ = jl.LSTM(4).init(jax.random.key(0), x)
    for layer in (jl.LSTM(4, method="recompute"), jl.RNN(jl.LSTMCell(4), method="recompute")):
        text = str(jax.make_jaxpr(lambda p, x, layer=layer: layer.apply(p, {}, x)[0])(params, x))
        assert "custom_jvp_call" in text
        (row,) = jl.explain(layer, x).decisions
        assert (row.operation, row.method) == ("lstm", "recompute")


@pytest.mark.parametrize("short_form", SHORT_FORMS, ids=lambda f: f.__name__)
def test_a_cell_is_a_layer_of_one_step(short_form):
    options = {"kernel_size": 2} if short_form in IMAGES else {}
    if short_form in (jl.LinearAttention, jl.GatedDeltaNet, jl.Mamba2):
        options = {"head_dim": 2}
    cell = SHORT_FORMS[short_form](3, **options)
    x = input_of(short_form)
    params, state = short_form(3, **options).init(jax.random.key(0), x)
    whole, _ = short_form(3, **options).apply(params, state, x)
    carry = jl.stream(jl.RNN(cell)).start(params, state, x)
    again, _ = cell.init(jax.random.key(0), (x[:, 0], carry))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    for t in range(x.shape[1]):
        (y, carry), state = cell.apply(params, state, (x[:, t], carry))
        np.testing.assert_allclose(y, whole[:, t], atol=1e-5)


def test_descriptions():
    layer = jl.RNN(jl.LSTMCell(8, peephole=True), reverse=True)
    assert repr(layer) == "RNN(LSTMCell(8, peephole=True), reverse=True)"
    assert repr(jl.RNN(jl.LSTMCell(8))) == "RNN(LSTMCell(8))"
    assert repr(eval(repr(layer), vars(jl))) == repr(layer)
    assert list(jl.serial(layer, jl.RNN(jl.GRUCell(2))).children) == ["rnn", "rnn_1"]
    assert jl.LSTMCell(8).kind == "lstm_cell"
    assert "RNN(LSTMCell(8), reverse=True)" in str(
        jl.summary(jl.RNN(jl.LSTMCell(8), reverse=True), STEPS)
    )
    assert jl.receptive_field(jl.RNN(jl.LSTMCell(2)), STEPS).lookahead == 0
    assert jl.receptive_field(layer, STEPS).lookback == 0


# Cells of users.


def mgu_step(w, x, h):
    """The minimal gated unit of one row, in NumPy."""
    (forget_in, new_in), kernels = (
        np.split(x @ w["kernel"], 2),
        np.split(w["recurrent_kernel"], 2, 1),
    )
    forget = 1 / (1 + np.exp(-(forget_in + h @ kernels[0])))
    return (1 - forget) * h + forget * np.tanh(new_in + (forget * h) @ kernels[1])


@pytest.mark.parametrize(
    ("reverse", "method"),
    [
        (True, "recompute"),
        pytest.param(True, "store", marks=pytest.mark.full),
        pytest.param(False, "store", marks=pytest.mark.full),
    ],
)
@pytest.mark.oracle("a loop")
def test_a_users_cell_against_a_loop(reverse, method):
    """Masks with holes, NaN in the padding, resets, zoneout, a trainable carry."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        x = rng.standard_normal((3, 5, 4))
        mask = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
        resets = np.array([[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
        cell = INSTANCES["a user's cell"].layer
        options = {"reverse": reverse, "method": method, "zoneout": 0.3, "trainable_carry": True}
        layer = jl.RNN(cell, **options)
        end = jl.RNN(cell, return_sequences=False, **options)
        params, _ = layer.init(jax.random.key(0), jnp.asarray(x))
        params = jax.tree.map(lambda p: p + 0.5 * rng.standard_normal(p.shape), params)
        w = jax.tree.map(np.asarray, params)
        wanted = np.zeros((3, 5, 2))
        last = np.zeros((3, 2))
        for b in range(3):
            h = w["initial_h"]
            for t in range(5)[:: -1 if reverse else 1]:
                if mask[b, t]:
                    h = w["initial_h"] if resets[b, t] else h
                    h = 0.3 * h + 0.7 * mgu_step(w, x[b, t], h)
                    wanted[b, t] = h
            last[b] = h
        given = (jl.Sequence(jnp.where(mask[..., None], x, np.nan), jnp.asarray(mask)), resets)
        y, after = jax.jit(lambda *a: [run.apply(*a)[0] for run in (layer, end)])(params, {}, given)
        np.testing.assert_allclose(y.fill(), wanted, atol=1e-12)
        np.testing.assert_allclose(after, last, atol=1e-12)
        rows = jl.explain(layer, jnp.asarray(x)).decisions
        assert [(row.operation, row.method) for row in rows] == [("cell", method)]


@pytest.mark.parametrize(
    "layer",
    sample(
        [
            jl.RNN(INSTANCES["a user's cell"].layer, trainable_carry=True, zoneout=0.2),
            jl.RNN(INSTANCES["a user's cell"].layer, reverse=True, recurrent_dropout=0.3),
            jl.RNN(jl.LinearRecurrenceCell(2), zoneout=0.2),
        ]
    ),
    ids=lambda layer: repr(layer)[:60],
)
def test_masks_and_steps(layer):
    check_sequence(layer, jl.spec((3, 4, 3)))


def test_a_cell_over_images():
    """A running mean over each image, whose state has another shape than the input."""

    def step(params, x, h, carry):
        return {"h": 0.5 * carry["h"] + 0.5 * x.mean((1, 2))}

    layer = jl.RNN(jl.Cell(lambda x: {}, {"h": 2}, step, rank=3))
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 2))
    means = x.mean((2, 3))
    wanted = means[:, 0] / 8 + means[:, 1] / 4 + means[:, 2] / 2
    np.testing.assert_allclose(layer.apply({}, {}, x)[0][:, -1], wanted, atol=1e-6)


def test_the_carry_of_a_cell_may_have_any_shape_and_dtype():
    """A count of steps, an integer, beside a matrix; what is carried first is the output."""

    def step(params, x, h, carry):
        memory = carry["memory"] + x[:, :, None] * x[:, None]
        return {"memory": memory, "count": carry["count"] + 1}

    def carry(x):
        batch, size = x.shape
        count = jl.spec((batch, 1), jnp.int32)
        return {"memory": jl.spec((batch, size, size), x.dtype), "count": count}

    layer = jl.RNN(jl.Cell(lambda x: {}, carry, step))
    x = jax.random.normal(jax.random.key(0), (2, 4, 3))
    y, after = (run := jl.stream(layer)).step({}, {}, run.start({}, {}, x), x)
    np.testing.assert_allclose(y[:, -1], np.einsum("bti,btj->bij", x, x), atol=1e-5)
    assert after["count"].tolist() == [[4], [4]]


LINEAR = [
    jl.MinGRUCell(3),
    jl.LinearRecurrenceCell(3),
    jl.MinLSTMCell(3),
    jl.SRUCell(3, peephole=False),
    jl.QRNNCell(3, 2, pooling="ifo"),
    jl.SelectiveSSMCell(2),
    jl.MambaCell(2),
    jl.S5Cell(3),
]


@pytest.mark.parametrize("cell", LINEAR, ids=repr)
def test_linear_cells_step_by_step_and_all_at_once(cell):
    x = jax.random.normal(jax.random.key(0), STEPS.shape)
    params, _ = jl.RNN(cell).init(jax.random.key(0), x)
    x = jl.Sequence.from_lengths(x, jnp.asarray([3, 5]))
    at_once, scanned = (
        jax.jit(jl.RNN(cell, method=method).apply)(params, {}, x)[0].fill()
        for method in (None, "store")
    )
    np.testing.assert_allclose(at_once, scanned, atol=1e-6)


# Of more steps than a chunk has, and not of whole chunks: (cell, steps).
CHUNKED = [
    (jl.SelectiveSSMCell(2), 75),
    (jl.LinearAttentionCell(1), 150),
    (jl.MLSTMCell(4, 2), 150),
    (jl.GatedDeltaNetCell(1, kernel_size=2), 150),
    (jl.Mamba2Cell(2, head_dim=3), 150),
]


@pytest.mark.parametrize("case", sample(CHUNKED, 2, 3), ids=lambda case: repr(case[0]))
def test_chunks_and_single_steps(case):
    """Values and gradients, with rows that end early."""
    cell, steps = case
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (3, steps, 3), jnp.float64)
        params, _ = jl.RNN(cell).init(jax.random.key(0), x)
        params = jax.tree.map(
            lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), params
        )
        mask = jnp.arange(steps)[None] < jnp.asarray([[steps], [70], [3]])

        def outputs(params, x, method):
            layer = jl.RNN(cell, method=method)
            return layer.apply(params, {}, jl.Sequence(x, mask))[0].fill()

        def loss(params, x, method):
            y = outputs(params, x, method)
            return jnp.vdot(y, jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y

        runs = [
            jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)(params, x, method)
            for method in (None, "store")
        ]
        # Without a gradient the algorithm may be another one.
        values = jax.jit(outputs, static_argnums=2)(params, x, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9), *runs)
    np.testing.assert_allclose(values, runs[1][1], 1e-9, 1e-9)


@pytest.mark.parametrize("size", [1.0, 300.0])
def test_gates_of_xlstm_do_not_overflow(size):
    """exp(i) would, in float32, of an i above 88; and vanish below -103."""
    x = size * jax.random.normal(jax.random.key(0), (2, 6, 3))
    for layer in (jl.MLSTM(4, gate_kernel_init=jax.nn.initializers.ones), jl.SLSTM(4)):
        params, _ = layer.init(jax.random.key(1), x)

        def loss(params, x, layer=layer):
            return jnp.sum(layer.apply(params, {}, x)[0] ** 2)

        value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, slopes)))


def test_the_delta_rule_replaces_what_is_under_a_key():
    """The same key in every step, where a solver by powers of the system would lose all digits."""
    x = jnp.broadcast_to(jnp.asarray([1.0, -2.0, 0.5]), (1, 64, 3))
    layer = jl.GatedDeltaNet(1, kernel_size=None)
    params, _ = layer.init(jax.random.key(0), x)
    params |= {"write_kernel": 9 * jnp.ones((3, 1)) * jnp.sign(x[0, :1].T)}
    at_once, _ = jax.jit(layer.apply)(params, {}, x)
    cell = jl.RNN(jl.GatedDeltaNetCell(1, kernel_size=None), method="store")
    np.testing.assert_allclose(at_once, jax.jit(cell.apply)(params, {}, x)[0], atol=1e-5)


def one_step(cell, carry):
    return lambda: jl.out_spec(cell, (jl.spec((2, 3)), carry))


def cell_of(step, carry=None, **more):
    return jl.Cell(lambda x: {}, {"h": 3} if carry is None else carry, step, **more)


ERRORS = [
    (lambda: jl.RNN(jl.LSTM(3)), "RNN: cell must be a Cell, got LSTM(3)", "hint:     LSTMCell(32)"),
    (lambda: jl.RNN(jl.LSTMCell(3, clip=0)), "LSTMCell: clip must be a number above 0, got 0"),
    (lambda: jl.RNN(jl.GRUCell(3), zoneout=1), "RNN: zoneout must be at least 0 and less than 1"),
    (
        lambda: jl.out_spec(jl.serial(jl.Dense(3), jl.RNN(jl.GRUCell(4))), jl.spec((2, 3))),
        "RNN at 'rnn': takes an array of rank 3, got rank 2",
        "layer:    RNN(GRUCell(4))",
        "expected: (batch, time, features)",
    ),
    (
        lambda: jl.RNN(jl.MinGRUCell(3), recurrent_dropout=0.1),
        "RNN: recurrent_dropout drops h where it meets a recurrent kernel, and this cell has none",
        "got:      MinGRUCell(3)",
        "hint:     Dropout(rate, shared_axes=1) after it; zoneout",
    ),
    (
        lambda: jl.out_spec(jl.LSTMCell(3), STEPS),
        "LSTMCell: a cell takes one step: (x, carry)",
        "got:      float32[2, 5, 3]",
        "hint:     RNN(cell) for a sequence",
    ),
    (
        one_step(jl.LSTMCell(3), {"h": jl.spec((2, 3))}),
        "LSTMCell: the carry does not fit the cell",
        "expected: {h: float32[2, 3], c: float32[2, 3]}",
        "got:      {h: float32[2, 3]}",
    ),
    (
        one_step(jl.LinearRecurrenceCell(4, project=False), {}),
        "LinearRecurrenceCell: without project the input must have 4 features",
    ),
    (
        lambda: jl.stream(cell_of(lambda params, x, h, carry: carry)).start(
            {}, {}, (jl.spec((2, 3)), {"h": jl.spec((2, 3))})
        ),
        "Cell: cannot be streamed: it is one step of a sequence",
    ),
    (
        lambda: jl.out_spec(jl.RNN(cell_of(lambda params, x, h, carry: {"g": h})), STEPS),
        "RNN: the step gave another carry than it was given",
        "expected: {h: float32[2, 3]}",
        "got:      {g: float32[2, 3]}",
    ),
    (
        lambda: jl.out_spec(jl.RNN(cell_of(lambda params, x, h, carry: (h,))), STEPS),
        "RNN: the step gave another carry than it was given",
        "got:      (float32[2, 3],)",
    ),
    (
        lambda: jl.out_spec(
            jl.RNN(
                jl.Cell(lambda x: {"kernel": (3, 3)}, {"h": 3}, lambda params, x, h, carry: carry)
            ),
            STEPS,
        ),
        "RNN: parameters must give an initialiser and a shape for each name",
        'expected: {"kernel": (init, shape)}',
    ),
    (
        lambda: jl.out_spec(
            jl.RNN(cell_of(lambda params, x, h, carry: carry, rank=3)), jl.spec((2, 5, 3))
        ),
        "RNN: takes an array of rank 5, got rank 3",
        "expected: (batch, time, ...)",
    ),
    (
        lambda: cell_of(lambda params, x, h: h),
        "step must be a function of (params, x, h, carry)",
        "a function of (params, x, h)",
    ),
    (
        lambda: cell_of(lambda params, x, h, carry: carry, project=lambda x: x),
        "project must be a function of (params, x)",
    ),
    (
        lambda: cell_of(lambda params, x, h, carry: carry, {"h": 0}),
        "the size of 'h' in the carry must be a positive int, got 0",
    ),
    (
        lambda: jl.out_spec(
            jl.RNN(cell_of(lambda params, x, h, carry: carry, lambda x: {})), STEPS
        ),
        "RNN: carry must give one named array or more",
    ),
    (
        lambda: jl.out_spec(
            jl.RNN(
                cell_of(lambda params, x, h, carry: carry, project=lambda params, x: x[1:]),
            ),
            STEPS,
        ),
        "RNN: project must keep the leading axes (time, batch)",
    ),
    (
        lambda: jl.RNN(
            jl.Cell(
                lambda x: {"initial_h": (jax.nn.initializers.ones, (3,))},
                {"h": 3},
                lambda params, x, h, carry: carry,
            ),
            trainable_carry=True,
        ).init(jax.random.key(0), STEPS),
        "RNN: the cell has a parameter 'initial_h', and so has trainable_carry",
    ),
    (
        lambda: jl.LSTMCell(3, activation="relu"),
        "LSTMCell: activation must be a function of (x), got 'relu'",
    ),
    (
        lambda: jl.out_spec(jl.S5(3, features=2), STEPS),
        "S5: with skip the output has the 3 features of the input",
        "got:      features=2",
        "hint:     skip=False",
    ),
    (lambda: jl.MLSTM(5, 2), "MLSTM: 2 heads do not divide 5 features"),
    (
        lambda: jl.GatedDeltaNet(2, kernel_size=1),
        "GatedDeltaNet: kernel_size must be at least 2, got 1",
        "hint:     kernel_size=None",
    ),
    (
        lambda: jl.out_spec(jl.LinearAttention(2), STEPS),
        "LinearAttention: 2 heads do not divide 3 features",
        "hint:     head_dim=...",
    ),
    (
        lambda: jl.out_spec(jl.Mamba2(), STEPS),
        "Mamba2: heads of 64 features do not divide 6",
        "hint:     head_dim=...",
    ),
    (
        lambda: jl.out_spec(jl.Mamba2(head_dim=3, num_groups=4), STEPS),
        "Mamba2: 4 groups do not divide 2 heads",
    ),
    (lambda: jl.Mamba2(kernel_size=1), "Mamba2: kernel_size must be an int of at least 2, got 1"),
    (lambda: jl.QRNN(3, pooling="max"), "QRNN: pooling must be 'f', 'fo' or 'ifo', got 'max'"),
    (
        lambda: jl.out_spec(jl.MGU(3, recurrent_activation=jnp.sum), STEPS),
        "MGU: recurrent_activation is not elementwise",
        "expected: float32[2, 3]",
        "got:      float32[]",
    ),
    (
        lambda: jl.out_spec(jl.ConvGRU(3, 6, padding="VALID"), jl.spec((2, 3, 4, 2))),
        "ConvGRU: the dilated kernel (6,) is larger than the input (4,)",
    ),
    (lambda: jl.RNN(jl.LSTM(4)), "hint:     LSTMCell(32); LSTM(32) is a layer by itself"),
    (lambda: jl.RNN(jl.LSTMCell), "hint:     call it: LSTMCell(32)"),
    (lambda: jl.RNN([jl.LSTMCell(4)]), "hint:     jl.serial(jl.RNN(a), jl.RNN(b))"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error[1][:50])
def test_errors(error):
    run, *texts = error
    with pytest.raises(jl.LayerError) as raised:
        run()
    assert [text for text in texts if text not in str(raised.value)] == [], str(raised.value)
