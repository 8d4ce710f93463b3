"""Emitters of JAX's primitives; importing them fills ``call.EMITTERS``."""

from . import (
    arithmetic,
    complexes,
    contractions,
    control,
    fourier,
    indexing,
    ordering,
    reductions,
    scattering,
    shapes,
    windows,
)

__all__ = [
    "arithmetic",
    "complexes",
    "contractions",
    "control",
    "fourier",
    "indexing",
    "ordering",
    "reductions",
    "scattering",
    "shapes",
    "windows",
]
