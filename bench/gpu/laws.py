"""Whether every layer is right on this device: output, new state and gradients, against float64.

Each layer of the table of instances, which the tests check the laws on, is one compiled program: it
computes all three in float32 as it comes (a GPU then multiplies in TensorFloat-32), in float32 at
precision "highest", and in bfloat16, in training and out of it. The reference is the same layer on
the CPU, in float64, from the same values: bfloat16 is given those that it has, so that it is judged
by its arithmetic alone.

How much of a difference is rounding depends on the layer: a batch norm over a few rows, or a step
that clips, amplifies it. So the reference is computed at points moved by the dtype's rounding, too,
and what that changes is allowed several times.
"""

import importlib.util
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlayers.testing.purity import same_program
from jlayers.testing.trees import (
    floats_of,
    is_float,
    map_numpy,
    random_like,
    values_for,
    with_floats,
)

from ..agreement import TENSOR_FLOAT_32, TOLERANCE
from ..data import default_promotion
from .item import Item, Result, Submit

TABLE = pathlib.Path(__file__).parents[2] / "tests" / "tables" / "instances.py"
# What a layer takes as one of many.
SECONDS = 1.0
# How often the change by rounding of the values, which are rounded once, is allowed.
OFTEN = 10
# By variant: the dtype of the input.
VARIANTS = {"float32": np.float32, "float32 highest": np.float32, "bfloat16": jnp.bfloat16}
Tree = Any


def instances() -> dict[str, Any]:
    """The table of the tests, by its file, since ``tests`` is not a package."""
    spec = importlib.util.spec_from_file_location("bench_gpu_instances", TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.INSTANCES)


def precisions() -> dict[str, tuple[str | None, float, float]]:
    """By variant: the precision of products, the tolerance, and the unit of rounding."""
    exact = (TOLERANCE["float32"], 2.0**-24)
    on_gpu = jax.default_backend() != "cpu"
    return {
        "float32": (None, *((TENSOR_FLOAT_32, 2.0**-11) if on_gpu else exact)),
        "float32 highest": ("highest", *exact),
        "bfloat16": (None, TOLERANCE["bfloat16"], 2.0**-9),
    }


def law(name: str, layer: Any, x: Tree) -> Item:
    def prepare(submit: Submit) -> Any:
        return submit(partial(check, layer, x))

    def finish(prepared: Any, budget: float, rounds: int) -> dict[str, Result]:
        return {name: prepared.result()}

    return Item("laws", {"layer": repr(layer)[:300]}, SECONDS, prepare, finish)


def check(layer: Any, x: Tree) -> Result:
    """The layer's row, ready to be stored, whatever goes wrong."""
    result = {"op": "laws", "question": layer.short()[:80], "bound": "", "errors": {}}
    try:
        with default_promotion():
            errors, wrong = _compare(layer, x)
    except Exception as error:  # the other layers go on
        return {**result, "figure": _text(error), "bound": "runs", "holds": False}
    shown = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    figure = "; ".join([shown, *wrong]) if wrong else shown
    bound = "within rounding" if errors else "has no floats to compare"
    return {**result, "figure": figure, "bound": bound, "holds": not wrong, "errors": errors}


def _compare(layer: Any, x: Tree) -> tuple[dict[str, float], list[str]]:
    """The largest error of each variant, and where one is more than rounding."""
    given = _Given(layer, x)
    errors, wrong, found = {}, [], given.results()
    for variant in VARIANTS:
        if variant not in found:
            continue
        got, (_, tolerance, unit) = found[variant], precisions()[variant]
        if isinstance(got, Exception):
            wrong.append(f"{variant}: {_text(got)}")
            continue
        expected, change = given.reference(VARIANTS[variant], unit)
        off, where = _difference(got, expected)
        errors[variant] = off
        allowed = max(tolerance, OFTEN * change)
        # Written so that a NaN does not pass.
        if not off <= allowed:
            wrong.append(f"{variant}: {where} is off by {off:.1e} (allowed {allowed:.0e})")
    return errors, wrong


class _Given:
    """A layer with its values, in NumPy."""

    def __init__(self, layer: Any, x: Tree):
        self.layer, self.cpu = layer, jax.local_devices(backend="cpu")[0]
        with jax.default_device(self.cpu):
            key = jax.random.key(7)
            self.x = map_numpy(np.asarray, values_for(x))
            made = jax.jit(layer.init)(key, self.x)
            self.params, self.state = map_numpy(np.asarray, made)
            self.key = np.asarray(jax.random.key_data(key))
            args = (self.params, self.state, self.x, key)
            jaxprs = [jax.make_jaxpr(self._apply(train))(*args) for train in (False, True)]
            outputs = jax.eval_shape(self._apply(True), *args)[0]
        # They tell the outputs apart, whose errors could cancel in a plain sum.
        self.weights = _exact(random_like(outputs, 1))
        self._programs: dict[bool, Any] = {}
        # In training first: of two equal programs it is the one that is asked.
        self.modes = [True] if same_program(*jaxprs) else [True, False]
        # Random bits depend on the width of what is drawn.
        self.keyed = {
            train: any(v is jaxpr.jaxpr.invars[-1] for e in jaxpr.jaxpr.eqns for v in e.invars)
            for train, jaxpr in zip((False, True), jaxprs, strict=True)
        }

    def _apply(self, train: bool) -> Callable[..., Any]:
        return partial(self.layer.apply, train=train)

    def _value_and_gradients(self, train: bool, at: Tree, key: Any) -> Tree:
        """Output, new state and gradients, the floats of the state among the arguments."""
        layer, weights = self.layer, self.weights

        def loss(own: Tree) -> tuple[Any, Tree]:
            x = with_floats(own["x"], at["others"])
            y, state = layer.apply(own["params"], at["state"], x, key=key, train=train)
            pairs = zip(jax.tree.leaves(y), jax.tree.leaves(weights), strict=True)
            wide = [jnp.promote_types(a.dtype, jnp.float32) for a in jax.tree.leaves(y)]
            terms = [
                jnp.sum(a.astype(dtype) * w.astype(dtype))
                for (a, w), dtype in zip(pairs, wide, strict=True)
                if is_float(a)
            ]
            return sum(terms, jnp.zeros(())), (y, state)

        own = {"params": at["params"], "x": at["x"]}
        (_, (y, state)), gradients = jax.value_and_grad(loss, has_aux=True)(own)
        return {"output": y, "state": _data(state), "gradients": gradients}

    def arguments(self, values: Any, dtype: Any) -> Tree:
        """The values of one dtype, the input in another; parameters are float32 at least."""
        wide = np.float64 if dtype == np.float64 else np.float32
        given = (self.params, self.state, self.x)
        params, state, x = _exact(given) if values == jnp.bfloat16 else given
        x = _cast(x, dtype)
        params, state = _cast((params, state), wide)
        return {"params": params, "state": state, "x": floats_of(x), "others": x}

    def results(self) -> dict[str, Any]:
        """By variant the results in all modes, or the exception."""
        # An input of ids alone gives no layer a reason to compute in bfloat16.
        narrow = bool(floats_of(self.x))
        given = {
            name: self.arguments(dtype, dtype)
            for name, dtype in VARIANTS.items()
            if narrow or dtype != jnp.bfloat16
        }

        def run(given: dict[str, Tree], key: Any) -> Tree:
            found = {}
            for name, at in given.items():
                with jax.default_matmul_precision(precisions()[name][0]):
                    found[name] = {
                        _mode(train): self._value_and_gradients(train, at, _key(key))
                        for train in self.modes
                    }
            return found

        program = jax.jit(run)
        try:
            return jax.device_get(program(given, self.key))
        except Exception:
            # Which of them it was: each by itself.
            return {name: _tried(program, {name: at}, self.key) for name, at in given.items()}

    def reference(self, values: Any, unit: float) -> tuple[Tree, float]:
        """The right results, and how much values that are off by ``unit`` change them."""
        right = self._right(values, 0.0)
        moved = (self._right(values, sign * unit) for sign in (1, -1))
        return right, max(_difference(other, right)[0] for other in moved)

    def _right(self, values: Any, moved: float) -> Tree:
        found = {}
        for train in self.modes:
            # Drawn in float64 the random numbers would be others.
            wide = not self.keyed[train]
            with jax.enable_x64(wide), jax.default_device(self.cpu):
                at = _moved(self.arguments(values, np.float64 if wide else np.float32), moved)
                of_mode = partial(self._value_and_gradients, train)
                program = self._programs.setdefault(
                    train, jax.jit(lambda at, key, run=of_mode: run(at, _key(key)))
                )
                with jax.default_matmul_precision("highest"):
                    found[_mode(train)] = jax.device_get(program(at, self.key))
        return found


def _tried(program: Any, given: Tree, key: Any) -> Any:
    try:
        (result,) = jax.device_get(program(given, key)).values()
    except Exception as error:
        return error
    return result


def _mode(train: bool) -> str:
    return "training" if train else "inference"


def _key(data: Any) -> jax.Array:
    return jax.random.wrap_key_data(data)


def _data(tree: Tree) -> Tree:
    """Keys as their words, which other devices have too."""

    def data(a: Any) -> Any:
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(a) if is_key else a

    return jax.tree.map(data, tree)


def _exact(tree: Tree) -> Tree:
    """The values rounded to bfloat16, in their own dtype."""
    return map_numpy(lambda a: a.astype(jnp.bfloat16).astype(a.dtype) if is_float(a) else a, tree)


def _cast(tree: Tree, dtype: Any) -> Tree:
    return map_numpy(lambda a: a.astype(dtype) if is_float(a) else a, tree)


def _moved(at: Tree, by: float) -> Tree:
    if not by:
        return at
    generator = np.random.default_rng(5)

    def move(a: np.ndarray) -> np.ndarray:
        signs = generator.choice([-1.0, 1.0], a.shape)
        return (a * (1 + by * signs)).astype(a.dtype) if is_float(a) else a

    others = at["others"]
    return {
        **map_numpy(move, {name: at[name] for name in ("params", "state", "x")}),
        "others": others,
    }


def _difference(got: Tree, expected: Tree) -> tuple[float, str]:
    """The largest difference of two results, relative, and where.

    Relative to the largest value of its array; where others of its kind are ten times as large, to
    a tenth of those: what a batch norm leaves of the gradient of a bias before it is rounding.
    """
    worst, where = 0.0, "result"
    for mode, kinds in expected.items():
        for kind, tree in kinds.items():
            leaves, _ = jax.tree.flatten_with_path(tree)
            values = jax.tree.leaves(got[mode][kind])
            rights = [np.asarray(leaf).astype(np.float64) for _, leaf in leaves]
            largest = [float(np.max(np.abs(right), initial=0.0)) for right in rights]
            most = max(largest, default=0.0)
            for (path, _), value, right, own in zip(leaves, values, rights, largest, strict=True):
                value = np.asarray(value).astype(np.float64)
                scale = max(own, 0.1 * most) or 1.0
                off = float(np.max(np.abs(value - right), initial=0.0)) / scale
                if not off <= worst:
                    worst, where = off, f"{mode}, {kind}{jax.tree_util.keystr(path)}"
    return worst, where


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
