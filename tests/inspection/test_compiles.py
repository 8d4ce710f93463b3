"""A compilation after the first is seen, and the leaf that caused it is named."""

import concurrent.futures
import functools
import gc
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import each, read

from jlayers import inspection
from jlayers.inspection.compilation import watch as compiles

pytestmark = pytest.mark.cold

F32 = np.ones((32, 4), np.float32)
RUN = {"dense": {"kernel": np.ones((4, 2), np.float32), "bias": np.zeros(2, np.float32)}}
FREE = "not bound to a device became"
PUT = "(hint: jax.device_put before the first step, to where the later ones are)"


def step(run, batch):
    return jax.tree.map(lambda leaf: leaf + 1, run), batch[0].sum()


def halves(x):
    return jax.device_put(x, jax.NamedSharding(jax.make_mesh((2,), ("data",)), jax.P("data")))


def reports(*calls, **options):
    """The reports of calls of one watched function, with the number of each call."""
    watched = inspection.jit_reporting_recompiles(step, **options)
    found = {}
    for number, args in enumerate(calls, 1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watched(*args)
        for warning in caught:
            found[number] = str(warning.message)
        assert all(warning.filename == __file__ for warning in caught)
    return found


SAME = [
    ((RUN, (F32,)), (RUN, (F32 + 1,))),
    ((RUN, (F32,)), (RUN, (jnp.asarray(F32),))),
    ((RUN, (F32,)), (RUN, (F32.astype(np.float64),))),
    ((RUN, (1.0,)), (RUN, (2.0,))),
    ((RUN, (jax.random.uniform(jax.random.key(0), (3,)),)), (RUN, (np.ones(3, np.float32),))),
]


@pytest.mark.parametrize("calls", SAME)
def test_nothing_is_said_of_calls_that_are_alike(calls):
    assert reports(*calls, calls[0], max_compiles=1) == {}


CHANGED = {
    "shape": (
        lambda: (RUN, (F32[:17],)),
        "batch/0: float32[32, 4] became float32[17, 4]  "
        "(hint: batches of one size: Batches(..., last='drop') or last='pad')",
    ),
    "features": (
        lambda: (RUN, (F32[:, :3],)),
        "batch/0: float32[32, 4] became float32[32, 3]  (hint: inputs of one shape: pad them)",
    ),
    "dtype": (
        lambda: (RUN, (F32.astype(np.int32),)),
        "batch/0: float32[32, 4] became int32[32, 4]  (hint: x.astype('float32'))",
    ),
    "Python number": (
        lambda: (RUN, (F32, 1)),
        "batch/1: a Python int is new",
    ),
    "leaf is gone": (
        lambda: ({"dense": {"kernel": RUN["dense"]["kernel"]}}, (F32,)),
        "run/dense/bias: float32[2] is gone",
    ),
    "structure": (
        lambda: (RUN, [F32]),
        "batch: the tree PyTreeDef((*,)) became PyTreeDef([*])",
    ),
    "committed": (
        lambda: (RUN, (jax.device_put(F32, jax.devices()[0]),)),
        f"batch/0: {FREE} bound to cpu:0  {PUT}",
    ),
    "device": (
        lambda: (jax.device_put(RUN, jax.devices()[1]), (F32,)),
        f"run/dense/bias and 1 more: {FREE} bound to cpu:1  {PUT}",
    ),
    "sharding": (
        lambda: (RUN, (halves(F32),)),
        f"batch/0: {FREE} split (data) over the mesh (data=2) of cpu:0, cpu:1  {PUT}",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_changed_is_named(name):
    changed, text = CHANGED[name]
    first, second = (RUN, (F32,)), changed()
    # Its second call finds what the first one compiled.
    found = reports(first, first, second, second, first)
    assert found == {3: f"step was compiled again at call 3: {text}"}


def test_a_weak_type_and_a_python_number():
    strong, weak = jnp.float32(1.0), jnp.asarray(1.0)
    assert weak.weak_type
    assert not strong.weak_type
    found = reports((RUN, (strong,)), (RUN, (weak,)), (RUN, (1.0,)), (RUN, (strong,)))
    assert found.keys() == {2}
    assert "batch/0: not weakly typed became so  (hint: jnp.asarray(x, dtype)" in found[2]
    found = reports((RUN, (strong,)), (RUN, (1.0,)))
    assert "batch/0: float32[] became a Python float  (hint: jnp.asarray(x, dtype)" in found[2]


def test_several_changes_have_a_line_each():
    found = reports(
        (RUN, (F32, F32)), (jax.device_put(RUN, jax.devices()[0]), (F32[:5], F32[:, :2]))
    )
    assert found[2].splitlines() == [
        "step was compiled again at call 2:",
        f"  run/dense/bias and 1 more: {FREE} bound to cpu:0",
        "  batch/0: float32[32, 4] became float32[5, 4]",
        "  batch/1: float32[32, 4] became float32[32, 2]",
        "  hint: jax.device_put before the first step, to where the later ones are",
    ]
    many = {f"leaf_{i:02}": np.ones(i + 1, np.float32) for i in range(20)}
    more = {name: leaf[None] for name, leaf in many.items()}
    found = reports((many, (F32,)), (more, (F32,)))
    assert "  run/leaf_07: float32[8] became float32[1, 8]" in found[2].splitlines()
    assert "  and 12 more" in found[2].splitlines()


def test_the_nearest_call_is_compared_with():
    found = reports((RUN, (F32,)), (RUN, (F32[:5], F32[:5])), (RUN, (F32[:7],)))
    assert "batch/0: float32[32, 4] became float32[7, 4]" in found[3]


def test_donated_arrays_tell_what_they_were():
    run = jax.device_put(RUN, jax.devices()[0])
    watched = inspection.jit_reporting_recompiles(step, donate_argnums=0)
    after, _ = watched(run, (F32,))
    assert run["dense"]["bias"].is_deleted()
    with pytest.warns(UserWarning, match="batch/0: .* became") as caught:
        watched(after, (F32[:5],))
    assert "run" not in str(caught[0].message)


def test_a_static_argument_and_a_setting():
    watched = inspection.jit_reporting_recompiles(lambda x, n: x * n, static_argnums=1)
    watched(jnp.ones(2), 2.0)
    with pytest.warns(
        UserWarning, match=r"^<lambda> was compiled again at call 2: n: 2.0 became 3.0$"
    ):
        watched(jnp.ones(2), 3.0)
    with (
        jax.default_matmul_precision("highest"),
        pytest.warns(UserWarning, match="at call 3: its arguments are as before: a setting of JAX"),
    ):
        watched(jnp.ones(2), 3.0)


def test_an_object_that_can_be_called_goes_by_its_type():
    class Doubling:
        def __call__(self, x):
            return 2 * x

    watched = inspection.jit_reporting_recompiles(Doubling())
    watched(F32)
    with pytest.warns(UserWarning, match=r"^Doubling was compiled again at call 2: x: float32"):
        watched(F32[:3])


def test_another_function_of_the_same_name_is_not_it():
    def other():
        def step(x):
            return x * 3

        return jax.jit(step)(jnp.ones(3))

    watch = compiles.CompileWatch(step)
    jitted = jax.jit(watch.traced)
    with watch:
        jitted(RUN, (F32,))
        assert watch.report(1, RUN, (F32,)) is None
        other()
        jitted(RUN, (F32,))
        assert watch.events != watch.seen
        assert watch.report(2, RUN, (F32,)) is None
        assert (watch.compiles, watch.events) == (1, watch.seen)


def test_it_listens_no_longer_than_it_is_asked_to():
    watch = compiles.CompileWatch(step)
    jitted = jax.jit(watch.traced)
    with watch:
        jitted(RUN, (F32,))
    seen = watch.events
    jitted(RUN, (jax.device_put(F32, jax.devices()[1]),))  # compiled, and not traced
    assert watch.events == seen
    ended = []
    stop = compiles.CompileWatch._stop_for_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compiles.CompileWatch, "_stop_for_all", lambda self: (ended.append(self), stop(self))
        )
        watched = inspection.jit_reporting_recompiles(step)
        del watched
        gc.collect()
    assert len(ended) == 1
    assert not ended[0]._listening


def test_each_thread_is_told_of_its_own_calls():
    watched = inspection.jit_reporting_recompiles(lambda x: x + 1)
    on_another = concurrent.futures.ThreadPoolExecutor(1)

    def reports(size, thread=None):
        """What a call says, on this thread or on another one."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call = functools.partial(watched, jnp.ones(size))
            call() if thread is None else thread.submit(call).result()
        return [str(one.message).split("float32")[1] for one in caught]

    assert reports(2) == []
    assert reports(3, on_another) == ["[2] became "]
    assert reports(3) == []  # compiled by the other thread, which was told
    assert reports(4) == ["[3] became "]
    assert reports(4, on_another) == []


def test_a_shape_that_two_threads_compile_at_once_is_told_once():
    watch = compiles.CompileWatch(lambda x: x + 1)
    with watch:
        watch.traced(F32)
        assert watch.report(1, F32) is None
        other = threading.Thread(target=lambda: (watch.traced(F32[:3]), said.append(report(2))))
        said, report = [], lambda number: watch.report(number, F32[:3])
        watch.traced(F32[:3])
        other.start()
        other.join()
        said.append(report(3))
    assert ["became" in (text or "") for text in said] == [True, False]


def again(**options):
    watched = inspection.jit_reporting_recompiles(step, **options)
    watched(RUN, (F32,))
    watched(RUN, (F32[:5], F32))


ERRORS = [
    (
        lambda: again(max_compiles=1),
        "step was compiled again at call 2",
        "expected: max_compiles=1",
        "batch/0: float32[32, 4] became float32[5, 4]",
        "batch/1: float32[32, 4] is new",
        "Batches(..., last='drop')",
    ),
    (
        lambda: inspection.jit_reporting_recompiles(0.5),
        "jit_reporting_recompiles: function must be callable",
        "0.5",
    ),
    (
        lambda: inspection.jit_reporting_recompiles(jax.jit(step)),
        "jit_reporting_recompiles: function is jitted already",
        "the function that was jitted",
    ),
    (
        lambda: inspection.jit_reporting_recompiles(step, max_compiles=0),
        "jit_reporting_recompiles: max_compiles must be a positive int, got 0",
    ),
]


@each(ERRORS)
def test_errors(case):
    read(case)


def test_as_many_as_allowed_are_warned_of():
    assert reports((RUN, (F32,)), (RUN, (F32[:5],)), max_compiles=2).keys() == {2}
