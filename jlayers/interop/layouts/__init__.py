"""How other libraries keep the parameters of a layer, a file a library."""

from . import flax, graph, haiku, keras, pytorch, transformers
from .base import Layout, Place

# In the order in which they are tried where a file could be of several.
LAYOUTS = {
    "torch": (*pytorch.LAYOUTS, *transformers.LAYOUTS),
    "keras": keras.LAYOUTS,
    "flax": flax.LAYOUTS,
    "haiku": haiku.LAYOUTS,
    "onnx": graph.ONNX,
    "tflite": graph.TFLITE,
}

__all__ = ["LAYOUTS", "Layout", "Place"]
