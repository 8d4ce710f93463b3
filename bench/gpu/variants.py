"""The candidates of a row: the frameworks, and further ways to compute it.

The further ones have the name of a framework and one of a variant, ``jlayers patches``: each
``method=`` of jlayers, a scan by hand with other unrolling, NVIDIA's cuDNN. They are not peers, and
answer whether jlayers chooses right there.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jlayers as jl

from ..frameworks import FRAMEWORKS, Unavailable, build, installed, part
from ..frameworks.jax_op import JaxOp, stacked
from ..ops.conv import geometry
from ..row import Row

# By operation, as the documentation of ``jlayers.core`` names them.
METHODS = {
    "conv": ("direct", "matmul", "patches", "shifted", "blocks", "planes"),
    "conv_transpose": ("direct", "phases"),
    "max_pool": ("direct", "axes"),
    "avg_pool": ("direct", "axes"),
    "attention": ("direct", "blocks"),
    "lstm": ("store", "recompute"),
    "gru": ("store", "recompute"),
    "simple_rnn": ("store", "recompute"),
}
UNROLLED = (2, 4, 8, 16)
Builder = Callable[[], Any]


@cache
def frameworks() -> list[str]:
    """Those that are here. jlayers can be imported where it is not installed."""
    return [name for name, version in installed().items() if version or name == "jlayers"]


def candidates(row: Row) -> dict[str, Builder]:
    """Names of the row's candidates to what builds their ``Implementation``."""
    found = {name: partial(build, name, row) for name in FRAMEWORKS if name in frameworks()}
    return {**found, **dict(_variants(row))}


def _variants(row: Row) -> Iterator[tuple[str, Builder]]:
    for method in METHODS.get(row.op, ()):
        if _has(row, method):
            yield f"jlayers {method}", partial(_with_method, row, method)
    if row.op == "attention":
        yield "lax cudnn", partial(_cudnn, "attention", row)
        if row.dtype != "float32" and not row.options.get("lengths"):
            yield "jlayers cudnn", partial(_cudnn_method, row)
    if row.op in ("lstm", "gru") and row["layers"] == 1 and not row["bidirectional"]:
        for unroll in UNROLLED:
            yield f"lax unroll {unroll}", partial(_unrolled, row, unroll)
    if row.op == "lstm":
        yield "lax cudnn", partial(_cudnn, "lstm", row)


def _has(row: Row, method: str) -> bool:
    """Whether the operation has the method for such arguments."""
    if row.op != "conv":
        return True
    g = geometry(row)
    return {
        "direct": True,
        "matmul": g.groups == 1 and set(g.kernel) == {1},
        "patches": g.groups == 1,
        "shifted": g.depthwise,
        "blocks": g.groups > 1,
        "planes": g.groups == 1 and g.rank == 3,
    }[method]


def _with_method(row: Row, method: str) -> JaxOp:
    ours = part("jlayers", "ops")
    if row.op in ("conv", "conv_transpose"):
        return _conv(row, method)
    if row.op == "attention":
        return ours.attention(row, method=method)
    layers = {"max_pool": jl.MaxPool, "avg_pool": jl.AvgPool}
    if row.op in layers:
        return ours.pool(layers[row.op], row, method=method)
    cells = {"lstm": jl.LSTM, "gru": jl.GRU, "simple_rnn": jl.SimpleRNN}
    return ours.recurrent(cells[row.op], row, method=method)


def _conv(row: Row, method: str) -> JaxOp:
    g, options = geometry(row), {}
    if row.op == "conv":
        options = {"padding": g.pairs, "groups": g.groups}
    function = partial(
        getattr(jl.core, row.op),
        strides=g.strides,
        dilation=g.dilation,
        method=method,
        **{"padding": row.options.get("padding"), **options},
    )
    return JaxOp(lambda params, x: function(x, params["kernel"], params.get("bias")))


def _cudnn(op: str, row: Row) -> JaxOp:
    made: JaxOp = getattr(part("lax", "cudnn"), op)(row)
    return made


def _cudnn_method(row: Row) -> JaxOp:
    part("lax", "cudnn").require_gpu()
    return part("jlayers", "ops").attention(row, method="cudnn")


def _unrolled(row: Row, unroll: int) -> JaxOp:
    lax = part("lax", "ops")
    step = {"lstm": lax.lstm_step, "gru": lax.gru_step}[row.op]
    if unroll > row.x[1]:
        raise Unavailable(f"{row.x[1]} steps cannot be unrolled by {unroll}")
    return stacked(partial(lax.recurrent, step, unroll=unroll), row)
