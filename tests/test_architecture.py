"""What the import contracts in pyproject.toml cannot say: file sizes, public JAX, plain packages.

The direction of imports itself is checked by ``make lint`` (import-linter).
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "jlayers"
FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
# One concept a file: a longer one needs a reason here.
LONGER = {
    "__init__.py": 700,  # a list of names
    "base/sequence.py": 460,  # the class, and the functions that see inside it
    "base/answers.py": 700,  # a table
    "base/scope.py": 490,  # the scope and its two forms for init and apply, read side by side
}


# The one use of jax.extend, for what nothing public does: to tell whether calls are in one program.
EXTENDED = {"base/collecting.py": "from jax.extend.core import get_opaque_trace_state"}


def _id(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_files_stay_short_and_jax_public(path):
    text = path.read_text()
    if allowed := EXTENDED.get(_id(path)):
        text = text.replace(allowed, "")
    assert len(text.splitlines()) <= LONGER.get(_id(path), 400)
    assert not re.search(r"jax\._src|jax\.extend|jax\.interpreters", text)


@pytest.mark.parametrize("path", PACKAGES, ids=_id)
def test_packages_only_re_export(path):
    body = ast.parse(path.read_text()).body
    # A package may load names late, and answers for those that it does not have; type checkers
    # must not see the latter.
    answers = [node for node in body if isinstance(node, ast.If)]
    assert [ast.unparse(node.test) for node in answers] in ([], ["not TYPE_CHECKING"])
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    functions += [node for answer in answers for node in answer.body]
    assert {node.name for node in functions} <= {"__getattr__", "__dir__"}
    others = [node for node in body if node not in answers and node not in functions]
    assert all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in others)


def test_every_package_says_what_it_is():
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in PACKAGES)


def test_the_main_example_stays_one_page():
    assert len((ROOT / "examples" / "digits.py").read_text().splitlines()) <= 80
