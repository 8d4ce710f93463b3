"""Phrases that this project once used and a reader of the field would have to learn.

The glossary in CONTRIBUTING.md has the words to use instead. Code, comments, docstrings, error
texts, tests and pages are all read, since all of them are what a newcomer meets.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(
    path
    for pattern in ("jlayers/**/*.py", "tests/**/*.py", "bench/**/*.py", "examples/**/*.py")
    for path in ROOT.glob(pattern)
    if path != pathlib.Path(__file__)
) + sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "Makefile"])
# A pattern, and what to write instead. CHANGELOG.md names old words in its table, so the names of
# that table are not among them.
BANNED = {
    r"\b[Mm]end(s|ed|ing)?\b(?!\(=|\"|=)": "hint",
    r"(?<![Tt]here )\b(is|are) no (?!(longer|more|less|slower|faster|larger|smaller)\b)": (
        "must be a ..., is not a ..., has no ..."
    ),
    r"(?<![Tt]here )\b(is|are) none\b": "is invalid, is missing, is not a ...",
    r"\bstands? (where|in|for a layer|at|beside|round|behind|before|there|here|on)\b": (
        "is in, is at, expected ... here"
    ),
    r"\bwhat stands\b": "the values in, what is in",
    r"\b[Nn]obody\b": "no one, nothing; or name the subject: padded keys are masked out",
    r"\bhand(s|ed|ing)? (it |them |the mask |its \w+ )?(on|out)\b": "pass on, return",
    r"\bgo(es)? by (its|the|their) (own )?name\b": "is called, takes the name",
    r"\bwhole or not there\b": "atomic",
    r"\b(a|the|each|every) rooms?\b|\brooms of\b": "package",
    r"\bthe house\b": "the package, the project",
    r"\bslip of the pen\b": "typing error",
    r"\bby a hair\b": "barely",
    r"\banew\b": "again",
    r"\bthat are some\b": "valid",
    r"\b[Ii]n the place of\b": "instead of, in place of",
    r"\bof one's own\b": "your own, custom",
    r"\bbegun\b": "started",
    r"\bspeaks? of\b": "is about, uses",
}


@pytest.mark.parametrize("pattern", BANNED)
def test_phrase_is_not_used(pattern):
    found = []
    for path in FILES:
        text = path.read_text()
        for match in re.finditer(pattern, text):
            number = text.count("\n", 0, match.start()) + 1
            line = text.splitlines()[number - 1].strip()
            found.append(f"{path.relative_to(ROOT)}:{number}: {line}")
    assert not found, f"write {BANNED[pattern]!r} instead:\n" + "\n".join(found)


def test_phrases_are_found():
    text = "the model is no layer, and what stands in the padding"
    assert [bool(re.search(pattern, text)) for pattern in BANNED].count(True) == 3
