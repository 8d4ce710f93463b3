"""Every Python block of the README and of docs/ runs, and prints what the page says.

The blocks of one page run in order in one namespace, as if typed into one session. A ``text``
fence right after a block is all that the block prints. Where the block raises, the fence ends with
what Python prints last, the error's type and text. In an error's text each block is a file of its
own, ``model.py``.
"""

import contextlib
import importlib.util
import io
import pathlib
import re
import traceback
from typing import NamedTuple

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Pages that tests/conformance/test_beside.py runs, and the libraries that they import.
BESIDE = {
    "blackjax.md": ["blackjax"],
    "diffrax.md": ["diffrax"],
    "grain.md": ["grain"],
    "kfac-jax.md": ["kfac_jax"],
    "laplax.md": ["laplax"],
    "numpyro.md": ["numpyro"],
    "optimistix.md": ["optimistix"],
    "orbax.md": ["orbax.checkpoint"],
}
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if not (path.parent.name == "beside" and path.name in BESIDE)
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n`]*\n(?P<inside>.*?)^(?P=indent)``` *$", re.M | re.S
)


class Block(NamedTuple):
    """A Python block, the page's line where it opens, and the output that the page gives it."""

    line: int
    code: str
    output: str | None


def blocks_of(page):
    """The Python blocks of a page, in order."""
    blocks, end_of_python = [], None
    for fence in FENCE.finditer(page):
        line = page.count("\n", 0, fence.start()) + 1
        # No dedent: the first column of an output may be blank.
        inside = re.sub(f"^{fence['indent']}", "", fence["inside"], flags=re.M)
        if fence["language"] == "python":
            blocks.append(Block(line, inside, None))
            end_of_python = fence.end()
        elif fence["language"] == "text":
            if end_of_python is None or page[end_of_python : fence.start()].strip():
                raise AssertionError(f"line {line}: the text is not the output of a block")
            blocks[-1] = blocks[-1]._replace(output=inside)
            end_of_python = None
    if len(re.findall("^ *```", page, re.M)) != 2 * len(FENCE.findall(page)):
        raise AssertionError("a fence is not closed")
    return blocks


def run(code, namespace):
    """What a block prints, and the error that ends it or None."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "model.py", "exec"), namespace)
    except Exception as error:
        return printed.getvalue(), error
    return printed.getvalue(), None


def check(page):
    """Runs a page.

    Raises:
      AssertionError: where a block prints something else than the page says.
      Exception: that of a block after which the page gives no output.
    """
    namespace = {"__name__": "__main__"}
    for block in blocks_of(page):
        printed, error = run(block.code, namespace)
        if error is not None:
            if block.output is None:
                error.add_note(f"in the block at line {block.line} of the page")
                raise error
            printed += "".join(traceback.format_exception_only(error))
        if block.output is not None:
            assert trimmed(printed) == trimmed(block.output), f"the block at line {block.line}"


def trimmed(text):
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.fixture(autouse=True)
def as_a_user(tmp_path, monkeypatch):
    """JAX as it comes, not strict as for the other tests, and an empty folder to write to."""
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page):
    check(page.read_text())


def test_the_pages_are_found():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "docs/coming-from-keras.md"} <= names


def test_the_readme_has_the_figures_of_the_benchmark():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/benchmarks.md"))
    rows = re.findall(r"\*\*all operations\*\* \| (\w+) \| (\d+) \| ([\d.]+)x", page)
    # Of each device; the first is the one that the README is about.
    modes = {mode: (count, float(figure)) for mode, count, figure in reversed(rows)}
    (count,) = re.findall(r"runs (\d+) operations", readme)
    ((gradient, forward),) = re.findall(
        r"gradients are ([\d.]+) times and forward passes ([\d.]+) times", readme
    )
    assert {own for own, _ in modes.values()} == {count}
    assert float(gradient) == pytest.approx(modes["gradient"][1], abs=0.051)
    assert float(forward) == pytest.approx(modes["forward"][1], abs=0.051)


def test_the_api_page_has_every_public_name():
    tool = importlib.util.spec_from_file_location("api_page", ROOT / "tools" / "api_page.py")
    api_page = importlib.util.module_from_spec(tool)
    tool.loader.exec_module(api_page)
    written = (ROOT / "docs" / "api.md").read_text()
    assert written == api_page.page(), "python tools/api_page.py"


def test_keras_page_ports_twelve_examples():
    page = (ROOT / "docs" / "coming-from-keras.md").read_text()
    headings = re.findall(r"^### Example (\d+): .+\?$", page, re.M)
    assert headings == [str(i) for i in range(1, 13)]
    ports = re.split(r"^### Example \d+: .+$", page, flags=re.M)[1:]
    assert all(any(block.output for block in blocks_of(port)) for port in ports)


GOOD = """
```python
x = 2
print(x)
```

```text
2
```

Words.

```python
print(x + 1)
1 / 0
```
```text
3
ZeroDivisionError: division by zero
```
"""


def test_a_right_page_passes():
    check(GOOD)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("```text\n2\n", "```text\n3\n"), 2),
        (("```text\n2\n", "```text\n2\n3\n"), 2),
        (("```text\n2\n", "```text\n"), 2),
        (("print(x)\n", ""), 2),
        (("division by zero", "division by one"), 13),
        (("1 / 0\n", ""), 13),
    ],
    ids=str,
)
def test_wrong_output_is_caught(change, line):
    with pytest.raises(AssertionError, match=f"the block at line {line}\\b"):
        check(GOOD.replace(*change))


def test_an_error_that_the_page_does_not_tell_is_raised():
    with pytest.raises(ZeroDivisionError) as caught:
        check("```python\n\n1 / 0\n```\n")
    assert caught.value.__notes__ == ["in the block at line 1 of the page"]


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match="careful"):
        check("```python\nimport warnings\nwarnings.warn('careful')\n```\n")


@pytest.mark.parametrize(
    "page",
    ["```text\n1\n```\n", GOOD.replace("```\n\n```text", "```\n\nWords.\n\n```text"), GOOD[:-4]],
    ids=["no block before", "words between", "open fence"],
)
def test_a_badly_built_page_is_caught(page):
    with pytest.raises(AssertionError):
        check(page)
