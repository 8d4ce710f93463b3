"""Writes docs/api.md: every public name, in one line, with a link to where it is documented.

``python tools/api_page.py``; a test compares the page with what this gives.
"""

import importlib
import inspect
import pathlib
import re

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PACKAGES = {
    "jlayers": "Layers, combinators, the contract",
    "jlayers.core": "Operations",
    "jlayers.interop": "Weights of other libraries",
    "jlayers.export": "Models that leave",
    "jlayers.models": "Well-known networks",
    "jlayers.losses": "Losses",
    "jlayers.metrics": "Metrics",
    "jlayers.training": "Training",
    "jlayers.sharding": "Many devices",
    "jlayers.data": "Data",
    "jlayers.checkpoint": "Checkpoints",
    "jlayers.decoding": "Decoding",
    "jlayers.inspection": "Inspection",
    "jlayers.records": "Records",
    "jlayers.sklearn": "scikit-learn",
    "jlayers.testing": "Testing",
}


def page():
    """The text of docs/api.md."""
    entries = _entries()
    lines = ["# API", "", "Every public name, written by `tools/api_page.py`.", ""]
    for package, title in PACKAGES.items():
        module = importlib.import_module(package)
        short = "jl" if package == "jlayers" else package
        lines += [f"## {title}", "", f"`{short}.`", "", "| name | |", "|---|---|"]
        for name in sorted(module.__all__, key=str.lower):
            lines.append(f"| {_link(entries, package, name)} | {_summary(getattr(module, name))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _entries():
    """``{"jlayers.Dense": "library/linear.md#jlayers.Dense"}``, from the pages' entries."""
    return {
        name: f"{path.relative_to(DOCS)}#{name}"
        for path in sorted(DOCS.rglob("*.md"))
        for name in re.findall(r"^::: (\S+)", path.read_text(), re.M)
    }


def _link(entries, package, name):
    # Documented where it is used most: jlayers.data.Batches is jlayers.training.Batches.
    known = [f"{package}.{name}", *(entry for entry in entries if entry.endswith(f".{name}"))]
    found = next((entries[entry] for entry in known if entry in entries), None)
    return f"`{name}`" if found is None else f"[`{name}`]({found})"


def _summary(value):
    """The first sentence of a docstring."""
    if not (inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value)):
        return ""
    text = inspect.cleandoc(value.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    (DOCS / "api.md").write_text(page())
