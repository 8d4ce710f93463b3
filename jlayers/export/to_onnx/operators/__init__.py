"""Layers as ONNX operators; importing them fills ``marking.LAYERS``."""

from . import attention, images, norms, recurrent

__all__ = ["attention", "images", "norms", "recurrent"]
