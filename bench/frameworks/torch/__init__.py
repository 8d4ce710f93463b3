"""PyTorch."""

from typing import Any

import numpy as np

from ..weights import Arrays, gate_count, torch_names


def layout(arrays: Arrays) -> Arrays:
    if "recurrent_kernel" in arrays:
        return {
            "weight_ih": arrays["kernel"].T,
            "weight_hh": arrays["recurrent_kernel"].T,
            "bias_ih": arrays["bias"],
            **({"bias_hh": _second_bias(arrays)} if "second_bias" in arrays else {}),
        }
    return torch_names(arrays)


def _second_bias(arrays: Arrays) -> Any:
    """The bias for the hidden state; of a GRU's, jlayers has that of one gate."""
    second = arrays["second_bias"]
    if gate_count(arrays) != 3:
        return second
    return np.concatenate([second, arrays["recurrent_bias"]])
