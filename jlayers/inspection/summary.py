"""summary: a model as a table of paths, shapes, parameters, bytes and FLOPs.

How to read this file: ``summary`` walks the layers and the abstract pass together (``_rows``);
parameters are counted in the table that ``init`` draws from, FLOPs by ``flops``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import join
from ..base.specs import format_spec, specs_of
from ..base.tracing import Trace, trace
from ..base.types import PyTree
from ..core.dtypes import is_symbolic
from .flops import flops

# Otherwise where a table is drawn: it is a large part of what importing jlayers adds to JAX.
if TYPE_CHECKING:
    import rich.console
    import rich.table


class Row(NamedTuple):
    """One layer of a model.

    Attributes:
      path: its path; ``""`` for the model's own.
      layer: its ``repr`` in one line.
      output: its output's shape; of the last call, for a layer called several times.
      parameters: how many numbers, of all copies under ``repeat`` and ``ensemble``.
      bytes: their size, in bytes.
      flops: floating-point operations of one ``apply``, of all calls and copies.
    """

    path: str
    layer: str
    output: PyTree
    parameters: int
    bytes: int
    flops: int


class Summary(NamedTuple):
    """The rows, and the sums over the whole model; ``str`` and ``print`` give a table.

    Attributes:
      rows: one for every layer that has no children, in order, and for every layer that has
        parameters of its own beside its children's.
      output: shape of the model's output.
      parameters, bytes: of all parameters.
      state_bytes: of all state.
      flops: of one ``apply`` of the whole model. It is the sum of the rows and of the arithmetic
        between layers, such as the sum in ``residual``.
    """

    rows: tuple[Row, ...]
    output: PyTree
    parameters: int
    bytes: int
    state_bytes: int
    flops: int

    def __str__(self) -> str:
        return table_text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> rich.table.Table:
        import rich.box
        import rich.markup
        import rich.table

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
        between = self.flops - sum(row.flops for row in self.rows)
        more = [Row("", "(between layers)", None, 0, 0, between)] if between != 0 else []
        footers = (
            "total",
            "",
            format_spec(self.output),
            f"{self.parameters:,}",
            size_text(self.bytes),
            count_text(self.flops),
        )
        titles = ("path", "layer", "output", "parameters", "bytes", "FLOPs")
        for i, (title, footer) in enumerate(zip(titles, footers, strict=True)):
            side: Any = "right" if i > 2 else "left"
            table.add_column(title, footer, justify=side, no_wrap=True, overflow="ellipsis")
        for row in [*self.rows, *more]:
            table.add_row(
                rich.markup.escape(row.path),
                rich.markup.escape(row.layer),
                rich.markup.escape(format_spec(row.output)) if row.output is not None else "",
                f"{row.parameters:,}" if row.parameters else "",
                size_text(row.bytes) if row.bytes else "",
                count_text(row.flops) if row.flops != 0 else "",
            )
        return table


@public_api
def summary(layer: LayerOrFunction, x: PyTree) -> Summary:
    """The layers of a model with their sizes and costs, for inputs shaped like ``x``.

    Nothing is computed.

    Args:
      layer: a model.
      x: arrays or ``jax.ShapeDtypeStruct``s.

    Returns:
      A ``Summary``: print it for a table, read its ``rows`` and sums for numbers.

    Raises:
      LayerError: where ``x`` does not fit the model.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(128), jax.nn.relu, head=jl.Dense(10))
    >>> total = jl.summary(model, jl.spec((32, 784)))
    >>> total.parameters, total.bytes, [row.path for row in total.rows]
    (101770, 407080, ['dense', 'relu', 'head'])
    """
    layer = lift(layer)
    found = trace(layer, x)
    return Summary(
        tuple(_rows(layer, specs_of(x), "", 1)),
        found.out,
        *_count(found.parameters.values()),
        _count(found.variables.values())[1],
        _flops(layer, found, specs_of(x)),
    )


def _rows(layer: Layer, x: PyTree, path: str, copies: int, calls: int = 1) -> Iterator[Row]:
    found = trace(layer, x)
    # A leaf's own parameters are all it has; a compose body may have some beside its children's. A
    # wrapper that draws those of its layer otherwise has none.
    inside = {join(name, p) for name, one in found.inside.items() for p in one.parameters}
    own = {p: spec for p, spec in found.own_parameters.items() if p not in inside}
    if not layer.children or (found.inside and own):
        numbers, size = _count(own.values())
        # What a layer does between its children is counted once, for the model as a whole.
        cost = 0 if layer.children else _flops(layer, found, x)
        name = layer.short() if not layer.children else f"{layer.maker}: {', '.join(own)}"
        yield Row(path, name, found.out, numbers * copies, size * copies, cost * copies * calls)
    for name, child in layer.children.items():
        inputs = found.inputs[name]
        total = [
            list(_rows(child, x, join(path, name), copies * layer.copies, calls)) for x in inputs
        ]
        # Several calls share their parameters; their FLOPs add up.
        for same in zip(*total, strict=True):
            yield same[-1]._replace(flops=sum(row.flops for row in same))


def _flops(layer: Layer, found: Trace, x: PyTree) -> int:
    def run(params: PyTree, state: PyTree, x: PyTree, key: jax.Array | None) -> PyTree:
        return layer._apply(params, state, x, key=key, train=False)

    given = (found.params, found.state, x)
    try:
        return flops(run, *given, None)
    except LayerError:  # a layer that draws random numbers even when it does not train
        return flops(run, *given, jax.random.key(0))


def _count(table: Iterable[ParamSpec]) -> tuple[int, int]:
    """How many numbers the arrays of a table have, and how many bytes."""
    sizes = [(math.prod(spec.shape), spec.dtype.itemsize) for spec in table]
    return sum(count for count, _ in sizes), sum(count * size for count, size in sizes)


def size_text(size: int) -> str:
    """Bytes in the largest fitting of B, KiB, MiB, GiB."""
    value, unit = _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def count_text(count: int) -> str:
    """A count with three digits and k, M, G or T; a symbolic one as a formula."""
    if is_symbolic(count):
        return str(count)
    value, unit = _scaled(count, 1000, ("", "k", "M", "G", "T", "P"))
    return f"{value:.0f}" if not unit else f"{value:.3g} {unit}"


def _scaled(number: int, step: int, units: tuple[str, ...]) -> tuple[float, str]:
    """The number in the first of the ``units`` in which it is below ``step``, or in the last."""
    power = next((i for i in range(len(units)) if number < step ** (i + 1)), len(units) - 1)
    return number / step**power, units[power]


def table_text(table: rich.console.RenderableType) -> str:
    """The table in plain characters, without blank lines."""
    import rich.console

    text = io.StringIO()
    # Wide enough for any row: a pipe or a log file has no width of its own.
    rich.console.Console(file=text, width=200).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)
