"""Equinox."""

from ..weights import Arrays, kernel_first, renamed

PARTS = {
    "attend_query": "attend_query_proj",
    "attend_key": "attend_key_proj",
    "attend_value": "attend_value_proj",
    "attend_out": "attend_output_proj",
}


def layout(arrays: Arrays) -> Arrays:
    if "recurrent_kernel" in arrays:
        sides = {"weight_ih": arrays["kernel"].T, "weight_hh": arrays["recurrent_kernel"].T}
        return {**sides, **renamed(arrays, bias="bias", bias_n="recurrent_bias")}
    own = renamed(arrays, weight="scale", bias="bias") | renamed(arrays, weight="embedding")
    return own | {"weight": kernel_first(arrays["kernel"])} if "kernel" in arrays else own
