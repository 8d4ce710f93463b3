"""The text of compiled programs without names and metadata, so that it can be compared."""

import re
from typing import Any


def hlo_text(compiled: Any) -> str:
    """The text of ``jax.jit(f).lower(...).compile()`` with names replaced by numbers.

    Two functions with the same text run the same program.
    """
    text = compiled.as_text()
    tables = "FileNames|FunctionNames|FileLocations|StackFrames"
    text = re.sub(rf"^({tables})\n(.+\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r", metadata=\{[^}]*\}", "", text)
    text = re.sub(r"^HloModule [^,]+", "HloModule", text)
    numbers: dict[str, str] = {}
    for name in re.findall(r"%[\w.-]+", text):
        numbers.setdefault(name, f"%{len(numbers)}")
    text = re.sub(r"%[\w.-]+", lambda match: numbers[match.group()], text)
    # Parameters are named again in the signatures, without the percent sign.
    text = re.sub(r"[\w.-]+: (?=[a-z]+\d*\[)", "", text)
    return re.sub(r"\n\s*\n+", "\n", text).strip()
