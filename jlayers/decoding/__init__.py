"""Decoding: a causal model of ids generates text, id by id, from the carry of its stream."""

from .beam import Beams, beam_search
from .decode import decode
from .generate import generate
from .sampling import greedy, sampler, temperature, top_k, top_p

__all__ = [
    "Beams",
    "beam_search",
    "decode",
    "generate",
    "greedy",
    "sampler",
    "temperature",
    "top_k",
    "top_p",
]
