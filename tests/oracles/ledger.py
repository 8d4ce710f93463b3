"""The page of conformance: which layer was compared with what, written by the tests themselves.

A test marked ``oracle("PyTorch")`` compares with somebody else's implementation (or with a loop
written from the paper). With ``--conformance-page PATH`` every such test that passes is a case of
each layer that it applied, and every comparison of numbers in it counts towards the largest error,
which is relative to the largest number compared. Of the laws, a row of the table counts where
``test_laws`` has passed. Nothing on the page is written by hand.
"""

import collections
import contextlib
import functools
import importlib.metadata
import platform

import jax
import numpy as np
import pytest

import jlayers as jl

PACKAGES = {"PyTorch": "torch", "Keras": "keras", "Flax": "flax", "Haiku": "dm-haiku"}
PACKAGES |= {"SciPy": "scipy", "einops": "einops", "Equinox": "equinox"}
PACKAGES["transformers"] = "transformers"
PACKAGES["LiteRT"] = "ai-edge-litert"
PACKAGES["PyTorch Geometric"] = "torch-geometric"
PROPERTY = "conformance"
# Tests over the whole table of instances, and the page's column that they fill.
TABLES = {
    "test_laws": "laws",
    "test_the_table_minds_its_masks_and_streams": "sequences",
}

HEAD = """# Conformance

Written by the tests: `make conformance-page` runs every layer beside other people's
implementations, with the same random weights and random input, and writes this page. A case is a
test with options of its own that passed, most of them of values and gradients; the error is the
largest difference of any number compared, relative to the largest number of the same array.
"A loop" is NumPy or plain JAX, written in the tests from the paper. `LSTM` and `RNN(LSTMCell)` are
one program, which other tests assert: cells share the cases of their short forms.

{versions}

Under "laws" is the number of rows with which a layer passes `jlayers.testing.check_layer`, in
training and out of it: `jit`, `vmap`, `grad`, `jvp`, `remat`, `scan` and an exported program change
nothing, among others. Under "sequences" that of `check_sequence`: padding changes no valid step,
and where a layer streams, blocks give what the whole gives.

| layer | compared with | cases | largest error | laws | sequences |
|---|---|---|---|---|---|
"""


class Note:
    """What one test has compared."""

    def __init__(self):
        self.layers, self.errors = set(), {}

    def applied(self, layer):
        makers = {inner.maker for _, inner in jl.walk(layer)}
        self.layers |= makers | {f"{maker}Cell" for maker in makers} & set(jl.__all__)

    def compared(self, got, wanted):
        if isinstance(wanted, list) and hasattr(got, "shape"):
            wanted = np.asarray(wanted)
        try:
            pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
        except ValueError:
            return
        for have, want in pairs:
            have, want = np.asarray(have), np.asarray(want)
            if have.shape != want.shape and have.ndim and want.ndim:
                continue
            if not np.issubdtype(have.dtype, np.inexact) or not have.size:
                self.errors.setdefault(have.dtype.name, 0.0)
                continue
            both = np.isfinite(have) & np.isfinite(want)
            size = np.abs(want * both).max() or 1.0
            error = float(np.abs(np.where(both, have - want, 0)).max() / size)
            self.errors[have.dtype.name] = max(self.errors.get(have.dtype.name, 0.0), error)


@contextlib.contextmanager
def noting(note):
    apply, close = jl.Layer.apply, np.testing.assert_allclose

    @functools.wraps(apply)
    def noted_apply(layer, *args, **options):
        note.applied(layer)
        return apply(layer, *args, **options)

    def noted_close(actual, desired, *args, **options):
        note.compared(actual, desired)
        return close(actual, desired, *args, **options)

    jl.Layer.apply, np.testing.assert_allclose = noted_apply, noted_close
    try:
        yield
    finally:
        jl.Layer.apply, np.testing.assert_allclose = apply, close


class Plugin:
    """Collects what the tests note, in this process or in those of pytest-xdist, and writes it."""

    def __init__(self, config):
        self.path = config.rootpath / config.getoption("--conformance-page")
        self.writes = not hasattr(config, "workerinput")
        self.cases = collections.Counter()
        self.errors = collections.defaultdict(dict)
        self.kept = {kind: collections.Counter() for kind in TABLES.values()}

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        """Layers that a test applies, and the arrays that it compares, are noted."""
        mark = pyfuncitem.get_closest_marker("oracle")
        against = mark.args[0] if mark else TABLES.get(pyfuncitem.originalname)
        if against is None:
            return (yield)
        note = Note()
        with noting(note):
            result = yield
        data = [against, sorted(note.layers), sorted(note.errors.items())]
        pyfuncitem.user_properties.append((PROPERTY, data))
        return result

    def pytest_runtest_logreport(self, report):
        if report.when != "call" or not report.passed:
            return
        for name, data in report.user_properties:
            if name == PROPERTY:
                self.keep(*data)

    def keep(self, against, layers, errors):
        for layer in layers:
            if against in self.kept:
                self.kept[against][layer] += 1
                continue
            if not errors:
                continue
            self.cases[layer, against] += 1
            largest = self.errors[layer, against]
            for dtype, error in errors:
                largest[dtype] = max(largest.get(dtype, 0.0), error)

    def pytest_sessionfinish(self):
        if self.writes:
            self.path.write_text(self.page())

    def page(self):
        lines = [self.row(name, against) for name in public() for against in self.of(name)]
        return HEAD.format(versions=versions()) + "\n".join(lines) + "\n"

    def of(self, layer):
        return sorted(against for name, against in self.cases if name == layer) or [None]

    def row(self, layer, against):
        errors = sorted(self.errors[layer, against].items())
        largest = ", ".join(
            f"{error:.0e} ({dtype})".replace("0e+00", "0") for dtype, error in errors
        )
        kept = [self.kept[kind][layer] for kind in ("laws", "sequences")]
        cells = [f"`{layer}`", against or "", self.cases[layer, against], largest, *kept]
        return "| " + " | ".join(str(cell or "") for cell in cells) + " |"


def public():
    """The names of the layers that users build."""
    return sorted(
        name
        for name in jl.__all__
        if name[0].isupper() and getattr(getattr(jl, name), "__jlayers_factory__", False)
    )


def versions():
    """Where and with what the page was written."""
    found = []
    for name, package in PACKAGES.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(package)}")
    return (
        f"With JAX {jax.__version__} on {jax.default_backend().upper()} "
        f"({platform.machine()}), against {', '.join(found)}."
    )
