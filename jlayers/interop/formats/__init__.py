"""One file a format; importing it here puts it into the table."""

from . import flax, gguf, hdf5, keras, numpy, onnx, orbax, pickle, safetensors, tflite, torch
from .base import FORMATS, Format

__all__ = [
    "FORMATS",
    "Format",
    "flax",
    "gguf",
    "hdf5",
    "keras",
    "numpy",
    "onnx",
    "orbax",
    "pickle",
    "safetensors",
    "tflite",
    "torch",
]
