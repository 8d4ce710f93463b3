"""Flax linen."""

import numpy as np

from ..weights import Arrays, gate_count, own_names

GATES = {4: "ifgo", 3: "rzn", 1: ("",)}


def layout(arrays: Arrays) -> Arrays:
    """A recurrent cell has a dense layer for each gate, of the input and of the hidden state."""
    if "recurrent_kernel" not in arrays:
        return own_names(arrays)
    gates = GATES[gate_count(arrays)]
    # The LSTM has its bias on the side of the hidden state.
    bias = "h" if len(gates) == 4 else "i"
    joined = {
        ("i", "kernel"): arrays["kernel"],
        ("h", "kernel"): arrays["recurrent_kernel"],
        (bias, "bias"): arrays["bias"],
    }
    own = {
        f"{side}{gate}/{name}": piece
        for (side, name), array in joined.items()
        for gate, piece in zip(gates, np.split(array, len(gates), axis=-1), strict=True)
    }
    if "recurrent_bias" in arrays:
        own["hn/bias"] = arrays["recurrent_bias"]
    return own
