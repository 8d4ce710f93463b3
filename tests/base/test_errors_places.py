"""Where an error says it came from: tracebacks, causes, sites, and the same text in every trace."""

import copy
import functools
import os
import pickle
import sys
import traceback

import jax
import jax.numpy as jnp
import pytest
from error_text import F32, IMAGE, KEY, MODEL, PARAMS, STATE, X, init

import jlayers as jl
from jlayers import Conv, Dense
from jlayers.base import errors, tracing

JAX = os.path.dirname(jax.__file__)
JLAYERS = os.path.dirname(jl.__file__)
BOUNDARY = errors.__file__
WIDE = jnp.ones((8, 6))  # not the width that PARAMS are for


class OwnError(ValueError):
    pass


def raises_own(x):
    raise OwnError("mine")


def matmul(x):
    return x @ jnp.ones((7, 7))


def caught(function, *args, kind=jl.LayerError):
    with pytest.raises(kind) as info:
        function(*args)
    return info.value


def files(error):
    """The files of JAX and of jlayers in the traceback."""
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return [name for name in names if name.startswith((JLAYERS, JAX))]


def loss(params, x=WIDE):
    return MODEL.apply(params, STATE, x)[0].sum()


TRACES = {
    "eager": lambda: MODEL.apply(PARAMS, STATE, WIDE),
    "jit": lambda: jax.jit(MODEL.apply)(PARAMS, STATE, WIDE),
    "vmap": lambda: jax.vmap(MODEL.apply, (None, None, 0))(PARAMS, STATE, WIDE[None]),
    "grad": lambda: jax.grad(loss)(PARAMS),
    "jit of grad": lambda: jax.jit(jax.value_and_grad(loss))(PARAMS),
    "jvp": lambda: jax.jvp(loss, (PARAMS,), (PARAMS,)),
    "eval_shape": lambda: jax.eval_shape(MODEL.apply, PARAMS, STATE, WIDE),
    "scan": lambda: jax.lax.scan(lambda _, x: (0, loss(PARAMS, x)), 0, WIDE[None]),
    "checkpoint": lambda: jax.checkpoint(loss)(PARAMS),
}
DEEP = jl.serial(Dense(4), jl.serial(Dense(3), Conv(3, 3)))
INITS = {
    "eager": lambda: DEEP.init(KEY, F32),
    "arrays": lambda: DEEP.init(KEY, X),
    "jit": lambda: jax.jit(DEEP.init)(KEY, X),
    "vmap": lambda: jax.vmap(lambda key: DEEP.init(key, X))(jax.random.split(KEY, 2)),
    "eval_shape": lambda: jax.eval_shape(DEEP.init, KEY, F32),
    "out_spec": lambda: jl.out_spec(DEEP, F32),
    "apply": lambda: DEEP.apply({}, {}, X),
    "without_state": lambda: jl.without_state(DEEP).init(KEY, F32),
}
OTHERS = {
    "factory": lambda: Dense(-1),
    "combinator": lambda: jl.serial(Dense(3), 3),
    "Layer": lambda: jl.Layer(None, None),
    "spec": lambda: jl.spec(3),
    "called": lambda: MODEL(X),
    "rebuild": lambda: MODEL.rebuild({}),
    "user's function": lambda: init(jl.serial(Dense(3), jl.repeat(matmul, 2))),
}


@pytest.mark.parametrize("trace", TRACES)
def test_apply_fails_alike_in_every_trace(trace):
    assert str(caught(TRACES[trace])) == str(caught(TRACES["eager"]))


@pytest.mark.parametrize("trace", INITS)
def test_init_fails_alike_in_every_trace(trace):
    assert str(caught(INITS[trace])) == str(caught(INITS["eager"]))


@pytest.mark.parametrize(
    "wrong", [*TRACES.values(), *INITS.values(), *OTHERS.values()], ids=[*TRACES, *INITS, *OTHERS]
)
def test_the_traceback_is_the_users_own(wrong):
    assert files(caught(wrong)) == [BOUNDARY]


def test_all_frames_are_there_when_jax_shows_its_own():
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        shown = files(caught(INITS["jit"]))
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert any(name.startswith(JAX) for name in shown)
    assert tracing.__file__ in shown


def test_an_error_is_a_value_error_and_can_be_taken_apart():
    error = caught(INITS["eager"])
    assert isinstance(error, ValueError)
    assert error.path == ("serial", "conv")
    assert error.problem == "takes an array of rank 3 or more, got rank 2"
    assert (error.expected, error.got) == ("(batch, *spatial, channels)", "float32[8, 3]")
    assert error.before == (
        ("dense", "float32[8, 5]", "float32[8, 4]"),
        ("serial/dense", "float32[8, 4]", "float32[8, 3]"),
    )


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("wrong", [TRACES["eager"], INITS["eager"], OTHERS["user's function"]])
def test_a_copied_error_has_the_same_text(wrong, copied):
    error = caught(wrong)
    assert str(copied(error)) == str(error)
    assert copied(error).path == error.path


def test_the_site_is_the_line_that_built_the_layer():
    line = sys._getframe().f_lineno + 1
    model = jl.serial(Dense(4), Conv(4, 3))
    assert f"  layer:    Conv(4, 3)  ({__file__}:{line})" in str(caught(init, model))

    @jl.factory
    def Block():
        return jl.residual(Dense(3))

    line = sys._getframe().f_lineno + 1
    error = caught(init, Block())
    assert f"  layer:    Block()  ({__file__}:{line})" in str(error)


def test_only_the_last_layers_before_are_listed():
    deep = jl.serial(*[Dense(4)] * 40, Conv(4, 3))
    lines = [line for line in str(caught(init, deep)).splitlines() if " -> " in line]
    assert len(lines) == 12
    assert lines[0] == "  before:   dense_28  float32[8, 4] -> float32[8, 4]"
    assert lines[-1] == "            dense_39  float32[8, 4] -> float32[8, 4]"


def test_the_cause_is_the_users_frame_alone():
    error = caught(init, jl.serial(Dense(4), jl.residual(matmul)))
    assert str(error).startswith(
        "matmul at 'residual/body': raised TypeError: dot_general requires"
    )
    assert type(error.__cause__) is TypeError
    (frame,) = traceback.extract_tb(error.__cause__.__traceback__)
    assert (frame.filename, frame.name) == (__file__, "matmul")
    assert "JAX_TRACEBACK_FILTERING" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "layer",
    [
        jl.serial(Dense(4), jl.repeat(jl.serial(Dense(4), last=raises_own), 2)),
        jl.serial(Dense(4), serial=jl.compose(lambda f, x: f.last(x), last=raises_own)),
    ],
)
def test_a_users_exception_keeps_its_class_and_says_where(layer):
    error = caught(init, layer, kind=OwnError)
    assert str(error) == "mine"
    (note,) = [note for note in error.__notes__ if "JAX" not in note]
    assert note.startswith(
        "raises_own at 'serial/last': raised OwnError: mine\n  layer:    raises_"
    )
    assert "  before:   dense " in note
    assert files(error) == [BOUNDARY]


def test_a_users_exception_in_a_body_keeps_its_class():
    def body(f, x):
        raise OwnError(f"for {x.shape}")

    error = caught(init, jl.serial(block=jl.compose(body)), kind=OwnError)
    assert str(error) == "for (8, 5)"
    assert any(note.startswith("compose at 'block': raised OwnError") for note in error.__notes__)


def test_the_model_is_checked_before_any_parameter_is_made():
    made = []

    def counting(key, shape, dtype):
        made.append(isinstance(key, jax.core.Tracer))
        return jnp.zeros(shape, dtype)

    counted = functools.partial(Conv, kernel_init=counting)
    caught(init, jl.serial(counted(4, 3), counted(4, 3), jl.Flatten(), Conv(4, 3)), IMAGE)
    assert made == [True, True]  # each once, abstractly
    init(jl.serial(counted(4, 3)), IMAGE)
    assert made == [True, True, True, True]  # and once more, to read what it computes


def test_an_error_leaves_nothing_behind():
    texts = [str(caught(INITS["eager"])) for _ in range(2)]
    assert texts[0] == texts[1]
    caught(TRACES["eager"])
    y, _ = MODEL.apply(PARAMS, STATE, X)
    assert y.shape == (8, 3)
