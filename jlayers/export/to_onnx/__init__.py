"""Models as ONNX graphs."""

from .exporting import onnx

__all__ = ["onnx"]
