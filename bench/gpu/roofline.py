"""What this GPU can do at best, measured in this run: products, a copy, and to start a program."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..floors import LARGE, bandwidth, peak
from ..timing import queued
from .item import Item, Result, Submit

# The names are those of the rows.
PRODUCTS = {
    "product-float32": ("float32", None, "float32 as it comes (TensorFloat-32 on a GPU)"),
    "product-float32-highest": ("float32", "highest", 'float32, precision "highest"'),
    "product-bfloat16": ("bfloat16", None, "bfloat16"),
}


def roofline(small: bool = False) -> Item:
    """``small``: a smaller copy, for a rehearsal."""
    return Item("roofline", {"bytes": LARGE}, 10.0, _nothing, partial(_measure, small))


def _nothing(submit: Submit) -> None:
    return None


def _measure(small: bool, prepared: None, budget: float, rounds: int) -> dict[str, Result]:
    rows = {
        name: _row(f"square matrix product, {text}", f"{rate / 1e12:.4g} TFLOP/s", rate)
        for name, (dtype, precision, text) in PRODUCTS.items()
        for rate in [peak(dtype, precision)]
    }
    size = 2**24 if small else LARGE
    rate = bandwidth(size)
    what = f"bytes read and written in place, {size / 1e6:.0f} MB"
    rows["copy"] = _row(what, f"{rate / 1e9:.4g} GB/s", rate)
    x, one = jnp.ones((8,)), jax.jit(lambda x: x + 1)

    def call(times: int) -> Any:
        return jax.block_until_ready([one(x) for _ in range(times)][-1])

    call(1)
    seconds = queued({"call": call}, budget, rounds)["call"].median
    what = "a program of one small operation, queued after another"
    rows["program"] = _row(what, f"{seconds * 1e6:.3g} us", seconds)
    return rows


def _row(question: str, figure: str, value: float) -> Result:
    return {
        "op": "roofline",
        "question": question,
        "figure": figure,
        "bound": "",
        "holds": True,
        "value": value,
    }
