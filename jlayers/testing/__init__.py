"""The contract as code, for jlayers' own layers and for anybody's."""

from .layers import check_layer
from .resume import ResumeReport, check_resume
from .sequences import check_sequence

__all__ = ["ResumeReport", "check_layer", "check_resume", "check_sequence"]
