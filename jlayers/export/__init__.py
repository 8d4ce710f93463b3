"""Models that leave: programs and operators that run without jlayers."""

from .to_onnx import onnx

__all__ = ["onnx"]
