"""Equinox."""

from ..weights import Arrays, renamed, torch_names

PARTS = {f"attend_{name}": f"attend_{name}_proj" for name in ("query", "key", "value")}
PARTS["attend_out"] = "attend_output_proj"


def layout(arrays: Arrays) -> Arrays:
    if "recurrent_kernel" in arrays:
        sides = {"weight_ih": arrays["kernel"].T, "weight_hh": arrays["recurrent_kernel"].T}
        return {**sides, **renamed(arrays, bias="bias", bias_n="recurrent_bias")}
    return torch_names(arrays)
