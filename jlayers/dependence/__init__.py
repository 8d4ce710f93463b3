"""How output steps depend on input steps, found by looking at a function's jaxpr."""

from .analysis import judge, judge_call
from .source import Source
from .verdict import Verdict, Why

__all__ = ["Source", "Verdict", "Why", "judge", "judge_call"]
