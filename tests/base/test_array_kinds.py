"""Kinds of array by the places where they enter: taken with the right values, or named.

The reference is the same call with a float32 or int32 array of NumPy.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import checkpoint, data, decoding, training

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("f4")
IDS = np.asarray([[1, 5, 2], [3, 3, 0]], np.int32)
LAYER = jl.GRU(2)
PARAMS, STATE = jax.tree.map(np.asarray, LAYER.init(KEY, X))
MODEL = jl.serial(jl.Embedding(7, 3), jl.GRU(2), jl.Dense(7))
OF_MODEL = MODEL.init(KEY, IDS)
START, STEP = jl.stream(LAYER)
SGD = training.train_step(
    jl.Dense(1), lambda y, t: ((y - t.astype(y.dtype)) ** 2).mean(), optax.sgd(0.1)
)


class Foreign:
    """An array of another library: its dtype means nothing to NumPy."""

    requires_grad = False

    def __init__(self, array, dtype="torch.float32"):
        self._array, self.shape, self.dtype = array, array.shape, dtype

    def __array__(self, dtype=None, copy=None):
        return self._array


def strided(x):
    wide = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


# Kinds that are taken, by how they are made of an array.
TAKEN = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "wider": lambda x: x.astype("f8" if x.dtype.kind == "f" else "i8"),
    "longdouble": lambda x: x.astype(np.longdouble) if x.dtype.kind == "f" else x,
    "nothing masked": np.ma.masked_array,
    "read-only": read_only,
    "strided": strided,
    "Fortran order": np.asfortranarray,
    "of another library": Foreign,
    "int8 ids": lambda x: x.astype(np.int8) if x.dtype.kind == "i" else x,
    "int4 ids": lambda x: x.astype(ml_dtypes.int4) if x.dtype.kind == "i" else x,
}


def trained(x):
    start = SGD.start(KEY, jl.spec((4, 2, 3)))
    found = training.fit(SGD, start, [(x, X[..., :1])], steps=1, progress=False)
    return found.state.params


def saved(x, tmp_path):
    path = checkpoint.save_checkpoint(tmp_path / "c", {"x": x}, step=1)
    return checkpoint.read_checkpoint(path, {"x": np.zeros(x.shape, "f4")}).tree["x"]


# Places where an array enters: what is computed with a floating one.
PLACES = {
    "init": lambda x: LAYER.init(KEY, x),
    "out_spec": lambda x: jl.out_spec(LAYER, x),
    "summary": lambda x: jl.summary(LAYER, x).rows[0].output,
    "apply": lambda x: LAYER.apply(PARAMS, STATE, x),
    "step": lambda x: STEP(PARAMS, STATE, START(PARAMS, STATE, x), x),
    "Sequence": lambda x: jl.Sequence(x).values,
    "from_lengths": lambda x: jl.Sequence.from_lengths(x, [1, 2, 2, 0]).values,
    "from_rows": lambda x: jl.Sequence.from_rows([x, x]).values,
    "a masked layer": lambda x: LAYER.apply(PARAMS, STATE, jl.Sequence(x))[0].values,
    "Batches": lambda x: data.Batches((x,), 3).at(0, 0),
    "fit": trained,
}


def same(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if isinstance(b, jax.ShapeDtypeStruct):
            assert a == b
        else:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
            assert np.asarray(a).dtype.isnative


@pytest.mark.parametrize("place", PLACES)
def test_values_are_those_of_float32(place):
    wanted = PLACES[place](X)
    for kind, make in TAKEN.items():
        if (kind, place) != ("of another library", "from_rows"):
            same(PLACES[place](make(X)), wanted)


@pytest.mark.parametrize("place", ["apply", "step", "generate"])
def test_parameters_of_every_kind(place):
    def run(cast):
        if place == "generate":
            trees = jax.tree.map(lambda leaf: cast(np.asarray(leaf)), OF_MODEL)
            return decoding.generate(MODEL, *trees, IDS, 2).values
        params = jax.tree.map(cast, PARAMS)
        if place == "apply":
            return LAYER.apply(params, STATE, X)[0]
        return STEP(params, STATE, START(params, STATE, X), X)

    wanted = run(lambda leaf: leaf)
    for make in TAKEN.values():
        same(run(make), wanted)


def test_prompts_of_every_kind():
    for run in (
        lambda ids: decoding.generate(MODEL, *OF_MODEL, ids, 2).values,
        lambda ids: decoding.decode(MODEL, *OF_MODEL, ids, 2).values,
        lambda ids: decoding.beam_search(MODEL, *OF_MODEL, ids, 2, beams=2).ids,
        lambda ids: MODEL.apply(*OF_MODEL, ids)[0],
    ):
        wanted = run(IDS)
        for make in TAKEN.values():
            same(run(make(IDS)), wanted)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_of_numpy_is_that_of_jax(dtype):
    half = X.astype(dtype)
    for place in ("init", "out_spec", "apply", "step", "Sequence", "Batches", "fit"):
        given, wanted = PLACES[place](half), PLACES[place](jnp.asarray(half))
        same(given, wanted)
        assert [leaf.dtype for leaf in jax.tree.leaves(given)] == [
            leaf.dtype for leaf in jax.tree.leaves(wanted)
        ]


def test_checkpoints_of_every_kind(tmp_path):
    for i, make in enumerate(TAKEN.values()):
        x = make(X)
        # A file keeps the dtype, and has none of the others.
        if not isinstance(x, Foreign) and x.dtype.name == "float32":
            np.testing.assert_array_equal(saved(x, tmp_path / str(i)), X)


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X)
    for place, run in PLACES.items():
        if place != "from_rows":
            same(run(x), run(X))
    half = PLACES["apply"](x.to(torch.bfloat16))
    same(half, PLACES["apply"](jnp.asarray(X, jnp.bfloat16)))
    params = jax.tree.map(torch.tensor, PARAMS)
    same(LAYER.apply(params, STATE, X), LAYER.apply(PARAMS, STATE, X))
    with pytest.raises(jl.LayerError, match=r"x holds a torch.Tensor that requires a gradient"):
        PLACES["apply"](x.requires_grad_())


def masked():
    return np.ma.masked_less(X, -1)


def deleted(x=X):
    x = jnp.asarray(x) + 1
    x.delete()
    return x


def leaked():
    found = []
    jax.jit(lambda x: found.append(x))(X)
    return found[0]


MASKED = "holds a masked array, and the mask would be lost"
LOST = "hint:     x.filled(value); jl.Sequence(values, mask) for steps that are padding"
DELETED = "hint:     its memory was donated to a jitted function: use what that returned"
TRACER = "an array is a tracer, which has left the function that was traced"
REFUSED = [
    *(
        (lambda place=place: PLACES[place](masked()), f"*{MASKED}", "of 24 masked", LOST)
        for place in PLACES
        if place not in ("from_rows",)
    ),
    (lambda: PLACES["from_rows"](masked()), f"from_rows: a row {MASKED}"),
    (
        lambda: LAYER.apply({**PARAMS, "kernel": np.ma.masked_less(PARAMS["kernel"], 0)}, {}, X),
        f"GRU: params {MASKED}",
    ),
    (
        lambda: decoding.generate(MODEL, *OF_MODEL, np.ma.masked_equal(IDS, 3), 2),
        f"generate: the prompt {MASKED}",
    ),
    (
        lambda: PLACES["apply"](X.astype(object)),
        "GRU: x holds an array of dtype object",
        "hint:     np.asarray(x.tolist()) for numbers, jl.Sequence.from_rows(rows) for sequences",
    ),
    (
        lambda: PLACES["fit"](np.full(X.shape, "a")),
        "fit: the batch holds an array of dtype <U1",
        "hint:     integer ids of the words, for an Embedding",
    ),
    (
        lambda: PLACES["Sequence"](np.zeros((2, 3), "M8[s]")),
        "a Sequence holds an array of dtype datetime64[s]",
        "hint:     (x - x[0]) / np.timedelta64(1, 's') for seconds",
    ),
    (lambda: jl.Sequence([[None]]), "a Sequence must be an array of numbers"),
    (
        lambda: PLACES["init"](np.zeros(3, [("a", "f4")])),
        "GRU: x holds an array of dtype [('a', '<f4')]",
        "hint:     a dict or a tuple of arrays, one for each field",
    ),
    *(
        (
            lambda place=place: PLACES[place](deleted()),
            "*an array float32[4,2,3] has been deleted",
            DELETED,
        )
        for place in ("apply", "step", "Batches", "fit")
    ),
    (
        lambda: jl.Dense(2).apply(
            {"kernel": deleted(jnp.ones((3, 2))), "bias": jnp.zeros(2)}, {}, X
        ),
        "Dense: an array float32[3,2] has been deleted",
        DELETED,
    ),
    (lambda: PLACES["apply"](leaked()), f"GRU: {TRACER}"),
    (lambda: PLACES["fit"](leaked()), f"fit: {TRACER}"),
    (lambda: PLACES["Batches"](leaked()), "Batches: '0' is traced"),
]


@each(REFUSED)
def test_errors(case):
    read(case)


def test_what_a_checkpoint_refuses(tmp_path):
    with pytest.raises(jl.CheckpointError, match="'x' of the tree holds a masked array"):
        saved(masked(), tmp_path)
    with pytest.raises(jl.CheckpointError, match="cannot hold 'x'") as caught:
        saved(Foreign(X), tmp_path)
    assert "hint:     np.asarray(x)" in str(caught.value)
