"""Flax NNX."""

from ..weights import Arrays, gate_count, own_names


def layout(arrays: Arrays) -> Arrays:
    if "recurrent_kernel" not in arrays:
        return own_names(arrays)
    # The LSTM has its bias on the side of the hidden state. The GRU has no bias there.
    bias = "dense_h" if gate_count(arrays) == 4 else "dense_i"
    return {
        "dense_i/kernel": arrays["kernel"],
        "dense_h/kernel": arrays["recurrent_kernel"],
        f"{bias}/bias": arrays["bias"],
    }
