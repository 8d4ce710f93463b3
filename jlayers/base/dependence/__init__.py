"""How output steps depend on input steps, found by looking at a function's jaxpr."""

from .analysis import UNTRACEABLE, compare, judge, judge_call
from .domain import Cause, Sizes
from .reach import reached, results_reached
from .rules_control import OPAQUE
from .source import Source
from .symbolic import number, numbered, symbols_of
from .trace import OWN_SIZES, Trace
from .verdict import Verdict, Why, why_of, worst

__all__ = [
    "OPAQUE",
    "OWN_SIZES",
    "UNTRACEABLE",
    "Cause",
    "Sizes",
    "Source",
    "Trace",
    "Verdict",
    "Why",
    "compare",
    "judge",
    "judge_call",
    "number",
    "numbered",
    "reached",
    "results_reached",
    "symbols_of",
    "why_of",
    "worst",
]
