"""The originals that a model is compared with, a file a kind."""

from . import keras, onnx, pytorch, recorded, tflite
from .base import Given, Reference

# In the order in which they are asked.
REFERENCES = (
    pytorch.REFERENCE,
    keras.REFERENCE,
    tflite.REFERENCE,
    onnx.REFERENCE,
    recorded.REFERENCE,
)

__all__ = ["REFERENCES", "Given", "Reference"]
