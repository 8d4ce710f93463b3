"""The house stays as it was planned: imports run one way, files stay short, JAX's API is public."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "jlayers"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room, and the first segments of the modules in jlayers that it must not import.
COMBINATORS = {"compose", "combinators", "merges", "over_time", "wrappers", "namespace"}
INSPECTION = {"paths", "summary", "explain", "cost", "testing", "training"}
FORBIDDEN = {
    "core": lambda module: module != "core",
    "layers": lambda module: module in COMBINATORS | INSPECTION,
    # The last five for its diagnosis, which looks into models.
    "training": lambda module: (
        module
        not in {"checks", "errors", "layer", "paths", "specs", "training"}
        | {"masking", "naming", "representation", "sequence", "trace"}
    ),
    "decoding": lambda module: (
        module
        not in {"checks", "core", "errors", "layer", "lifting", "sequence", "specs", "streaming"}
        | {"decoding"}
    ),
    "layer.py": lambda module: module in COMBINATORS | INSPECTION | {"layers", "core"},
    **{
        f"{name}.py": lambda module: module in INSPECTION | {"layers"}
        for name in sorted(COMBINATORS)
    },
}


# Within training: what each room may know of the others; the loop knows all.
TRAINING = {
    "data": set(),
    "checkpoints": set(),
    "logs": {"record"},
    "steps": {"data"},
    "diagnosis": {"steps"},
}


def imported(path):
    """The modules of jlayers that a file imports, as paths from the package."""
    here = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - (node.level - 1)]
            inner = tuple((node.module or "").split(".")) if node.module else ()
            for name in [()] if inner else [(alias.name,) for alias in node.names]:
                yield "/".join((*base, *inner, *name))


def test_the_reader_of_imports_sees_them():
    assert "layer" in set(imported(PACKAGE / "compose.py"))
    assert {"core", "checks", "parameters"} <= set(imported(PACKAGE / "layers" / "dense.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = path.relative_to(PACKAGE).parts[0]
    forbidden = FORBIDDEN.get(room, lambda module: False)
    assert [module for module in imported(path) if forbidden(module.split("/")[0])] == []


@pytest.mark.parametrize("room", TRAINING)
def test_the_rooms_of_training_are_entered_one_way(room):
    known = {
        module.split("/")[1]
        for path in (PACKAGE / "training" / room).glob("*.py")
        for module in imported(path)
        if module.startswith("training/")
    }
    assert known - {room} <= TRAINING[room]


def test_only_the_package_itself_joins_all_rooms():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    allowed = (ast.Expr, ast.ImportFrom, ast.Assign)
    assert all(isinstance(node, allowed) for node in tree.body)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short_and_jax_public(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert not re.search(r"jax\._src|jax\.extend|jax\.interpreters", text)


def test_the_main_example_stays_one_page():
    assert len((ROOT / "examples" / "digits.py").read_text().splitlines()) <= 80
