"""What a rule is: from an equation and its operands' values to its results' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .domain import Value
from .equation import Equation

Rule = Callable[[Equation, list[Value]], list[Value]]
Rules = Mapping[str, Rule]
