"""The tiers: ``make test`` asks every layer, law, method, error and page; nothing is in no tier.

Read from what pytest has collected, before it leaves out any, and from the Makefile's expressions.
"""

import importlib
import inspect
import pathlib
import re

import pytest
from tables.instances import INSTANCES

import jlayers as jl

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
MAKEFILE = (ROOT / "Makefile").read_text()
MARKERS = ("full", "soak", "conformance", "tpu", "optimised", "cold", "newest")
PUBLIC = ("training", "decoding", "export", "interop", "models", "losses", "metrics", "testing")


class Tiers:
    """All tests, and those of ``make test``."""

    def __init__(self, items):
        self.all = [(item, {mark.name for mark in item.iter_markers()}) for item in items]
        self.fast = [item for item, marks in self.all if holds(expression("FAST"), marks)]

    def parameters(self, function, name):
        """Those with which ``make test`` calls a test function."""
        called = (item for item in self.fast if item.originalname == function)
        return {item.callspec.params[name] for item in called}


def expression(name):
    """A variable of the Makefile, with the variables in it."""
    text = re.search(rf"^{name} *:= *(.+)$", MAKEFILE, re.M).group(1)
    return re.sub(r"\$\((\w+)\)", lambda found: expression(found.group(1)), text)


def holds(expression, marks):
    """pytest's ``-m``, which is an expression of Python too."""
    return eval(expression, {}, {name: name in marks for name in MARKERS})


@pytest.fixture(scope="module")
def tests(request):
    items = [item for item in request.config.stash["collected"] if hasattr(item, "originalname")]
    files = {path for path in TESTS.rglob("test_*.py") if path.parent.name != "conformance"}
    if missing := files - {item.path for item in items}:
        pytest.skip(f"asks for a run of all tests; {len(missing)} files are not in this one")
    return Tiers(items)


def test_a_test_is_in_a_tier(tests):
    every = expression("ALL")
    recipe = re.search(r"^test-all:.*\n((?:\t.*\n)+)", MAKEFILE, re.M).group(1)
    runs = [run.replace("$(ALL)", every) for run in re.findall(r'-m "([^"]+)"', recipe)]
    for item, marks in tests.all:
        times = sum(holds(run, marks) for run in runs)
        assert times == (not marks & {"soak", "conformance", "tpu", "newest"}), item.nodeid
        assert times == 1 or not holds(expression("FAST"), marks), item.nodeid


def test_no_row_of_the_table_is_lost(tests):
    called = {
        item.callspec.params["name"] for item, _ in tests.all if item.originalname == "test_laws"
    }
    assert called == set(INSTANCES)
    assert tests.parameters("test_laws", "name") == {
        name for name, row in INSTANCES.items() if not row.full
    }


def test_every_public_layer_is_asked_for_its_laws(tests):
    fast = tests.parameters("test_laws", "name")
    made = {layer.maker for name in fast for _, layer in jl.walk(INSTANCES[name].layer)}
    public = {name for name in jl.__all__ if hasattr(getattr(jl, name), "__jlayers_factory__")}
    assert public - made == set()


def test_every_law_is_seen_to_fail(tests):
    messages = tests.parameters("test_check_layer_finds_the_law_that_is_broken", "message")
    assert {int(number) for text in messages for number in re.findall(r"law (\d+)", text)} == set(
        range(1, 12)
    )
    broken = importlib.import_module("test_sequences").WRONG
    assert tests.parameters("test_check_sequence_finds_what_is_wrong", "name") == set(broken)


def test_every_method_is_compared(tests):
    """The methods that the documentation of an operation names, by the tests that name both."""
    modules = {item.module for item in tests.fast if item.path.parent.name in ("core", "layers")}
    texts = [inspect.getsource(module) for module in modules]
    described = {name: _methods(getattr(jl.core, name)) for name in jl.core.__all__}
    # There it is what lies between the pixels, not an algorithm; PyTorch is the judge of that.
    kinds = ("grid_sample", "Interpolation")
    described = {n: methods for n, methods in described.items() if methods and n not in kinds}
    # Others refer to these: "as in ``max_pool``".
    assert set(described) == {
        "attention", "conv", "conv_transpose", "max_pool", "quantized_dense", "simple_rnn"
    }  # fmt: skip
    for name, methods in described.items():
        for method in methods:
            assert any(name in text and f'"{method}"' in text for text in texts), (name, method)


def _methods(function):
    text = re.search(r"^ +method: (.*?)(?=^ +\w+: |^ *$)", function.__doc__ or "", re.M | re.S)
    return re.findall(r'``"(\w+)"``', text.group(1)) if text else []


def test_every_public_name_is_in_a_test_or_on_a_page(tests):
    texts = [inspect.getsource(module) for module in {item.module for item in tests.fast}]
    texts += [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    public = {*jl.__all__, *(n for name in PUBLIC for n in getattr(jl, name).__all__)}
    assert public - words == set()


def test_every_error_and_every_page_is_read(tests):
    kept = [
        item.nodeid
        for item, marks in tests.all
        if "full" in marks and (item.path.name.startswith(("test_errors", "test_docs")))
    ]
    assert kept == []
