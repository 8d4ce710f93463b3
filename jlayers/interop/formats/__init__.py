"""One file a format; importing it here puts it into the table."""

from . import numpy, pickle, safetensors, torch
from . import numpy, tflite
from . import numpy, onnx, tflite
from . import gguf, numpy, onnx, tflite
from . import gguf, numpy, onnx, pickle, safetensors, tflite, torch
from .base import FORMATS, Format

__all__ = [
    "FORMATS",
    "Format",
    "gguf",
    "numpy",
    "onnx",
    "pickle",
    "safetensors",
    "tflite",
    "torch",
]
