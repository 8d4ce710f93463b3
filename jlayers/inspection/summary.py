"""summary: a model as a table of paths, shapes, parameters, bytes and FLOPs.

How to read this file: ``summary`` walks the layers and the abstract pass together (``_rows``);
parameters are counted in the table that ``init`` draws from, FLOPs by ``flops``. What is asked for
beside them is added to the rows afterwards; ``columns`` draws them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import join
from ..base.receptive_field import ReceptiveField
from ..base.sequence import sequences_in
from ..base.sequence_mode import tracking
from ..base.specs import format_spec, specs_of
from ..base.tracing import Trace, trace
from ..base.types import Params, PyTree, State
from ..base.wrong_input import checked_trees
from .flops import flops
from .residuals import by_layer, stored_activations
from .summary_columns import MORE, cells_of, table_html, table_text

# Otherwise where a table is drawn: it is a large part of what importing jlayers adds to JAX.
if TYPE_CHECKING:
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
      activations: bytes that the backward pass of a training step keeps of the layer, if asked for.
      receptive_field: of the layer by itself, if asked for; None unless its output is a sequence.
      seconds: of one ``apply``, of all calls and copies, if measured.
    """

    path: str
    layer: str
    output: PyTree
    parameters: int
    bytes: int
    flops: int
    activations: int | None = None
    receptive_field: ReceptiveField | None = None
    seconds: float | None = None


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
      activations: bytes that the backward pass keeps, of the rows and of what is between them.
      receptive_field: of the whole model.
      seconds: of one ``apply`` of the whole model, measured by itself: the sum of the rows differs.
      columns: those that were asked for.
    """

    rows: tuple[Row, ...]
    output: PyTree
    parameters: int
    bytes: int
    state_bytes: int
    flops: int
    activations: int | None = None
    receptive_field: ReceptiveField | None = None
    seconds: float | None = None
    columns: tuple[str, ...] = ()

    @property
    def layer_seconds(self) -> float | None:
        """The sum of the rows' seconds; ``seconds`` is what the whole takes."""
        if self.seconds is None:
            return None
        return sum(row.seconds or 0.0 for row in self.rows)

    def __str__(self) -> str:
        return table_text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return table_html(self)

    def __rich__(self) -> rich.table.Table:
        import rich.box
        import rich.markup
        import rich.table

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
        header, *rows, footer = cells_of(self)
        for (title, right), last in zip(header, footer, strict=True):
            side: Any = "right" if right else "left"
            total = rich.markup.escape(last[0])
            table.add_column(title, total, justify=side, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(rich.markup.escape(text) for text, _ in row))
        return table

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        # Treescope calls this, and is imported by then.
        parts: Any = importlib.import_module("treescope.rendering_parts")
        return parts.build_one_line_tree_node(line=str(self), path=path)


@public_api
def summary(
    layer: LayerOrFunction,
    x: PyTree,
    *,
    columns: Sequence[str] = (),
    profile: bool = False,
    params: Params | None = None,
    state: State | None = None,
    key: jax.Array | None = None,
) -> Summary:
    """The layers of a model with their sizes and costs, for inputs shaped like ``x``.

    Nothing is computed, except with ``profile=True``, which runs the model on this machine: each
    layer in a loop, at the input that it has in the model.

    Args:
      layer: a model.
      x: arrays or ``jax.ShapeDtypeStruct``s.
      columns: more of them: ``"share"`` of the FLOPs, ``"activations"`` (bytes that the backward
        pass of a training step keeps, as JAX derives it, under the model's own ``remat``; XLA keeps
        less where it merges operations), ``"receptive_field"`` and latency of layers from sequences
        to sequences.
      profile: measure the time of each layer in evaluation, all its calls and copies together, and
        that of the whole model. The sum of the layers is given beside the whole, and may differ
        from it: XLA merges operations of neighbouring layers.
      params, state: what is measured, of ``init`` by default.
      key: a typed key, for layers that draw random numbers, and for ``init``.

    Returns:
      A ``Summary``: print it for a table, read its ``rows`` and sums for numbers.

    Raises:
      LayerError: where ``x`` does not fit the model, and for an unknown column.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(128), jax.nn.relu, head=jl.Dense(10))
    >>> total = jl.summary(model, jl.spec((32, 784)), columns=("activations",))
    >>> total.parameters, total.bytes, [row.path for row in total.rows]
    (101770, 407080, ['dense', 'relu', 'head'])
    >>> {row.path: row.activations for row in total.rows}
    {'dense': 0, 'relu': 36864, 'head': 0}
    """
    layer = lift(layer)
    more = _checked(columns)
    arguments.flag("profile", profile)
    found = trace(layer, x)
    if not profile and not (params is None and state is None and key is None):
        raise LayerError(
            "params, state and key are those of a measurement", hint="summary(..., profile=True)"
        )
    specs = specs_of(x)
    total = Summary(
        tuple(_rows(layer, specs, "", 1, found.parameters, "receptive_field" in more)),
        found.out,
        *_count(found.parameters.values()),
        _count(found.variables.values())[1],
        _flops(layer, found, specs),
        columns=more,
    )
    if "receptive_field" in more:
        total = total._replace(receptive_field=_field(layer, specs))
        if total.receptive_field is None and not any(row.receptive_field for row in total.rows):
            raise LayerError(
                "receptive_field: no layer inside is from sequences to sequences",
                expected="(batch, time, ...)",
                got=format_spec(specs),
            )
    if "activations" in more:
        stored = stored_activations(layer, found, specs)
        own = by_layer(stored, [row.path for row in total.rows])
        rows = _with(total.rows, "activations", own)
        total = total._replace(rows=rows, activations=sum(stored.values()))
    return _profiled(layer, x, total, params, state, key) if profile else total


def _checked(columns: Sequence[str]) -> tuple[str, ...]:
    given = (columns,) if isinstance(columns, str) else tuple(columns)
    for name in given:
        arguments.one_of("columns", name, MORE)
    return given


def _profiled(
    layer: Layer,
    x: PyTree,
    total: Summary,
    params: Params | None,
    state: State | None,
    key: jax.Array | None,
) -> Summary:
    from .timing import layer_seconds, sample

    if params is None and state is not None:
        raise LayerError("state is given without params", hint="summary(..., params=, state=)")
    key = jax.random.key(0) if key is None else key
    arguments.typed_key(key)
    x = sample(x)
    made = (params, state) if params is not None else jax.jit(layer.init)(key, specs_of(x))
    params, state = checked_trees(layer, made[0] or {}, made[1] or {}, x)
    times = layer_seconds(layer, params, state, x, key)
    rows = _with(total.rows, "seconds", times.layers)
    return total._replace(rows=rows, seconds=times.whole)


def _with(rows: tuple[Row, ...], name: str, by_path: Mapping[str, Any]) -> tuple[Row, ...]:
    """The rows with a field by their paths."""
    # A wrapper with parameters of its own comes before the layer inside, which has its path.
    last = {row.path: i for i, row in enumerate(rows)}

    def changed(row: Row) -> dict[str, Any]:
        return {name: by_path.get(row.path)}

    return tuple(
        row._replace(**changed(row)) if last[row.path] == i else row for i, row in enumerate(rows)
    )


def _rows(
    layer: Layer, x: PyTree, path: str, copies: int, drawn: Mapping[str, ParamSpec], fields: bool
) -> Iterator[Row]:
    found = trace(layer, x)
    # A leaf's own parameters are all it has; a compose body may have some beside its children's. A
    # wrapper that draws those of its layer otherwise has none.
    inside = {join(name, p) for name, one in found.inside.items() for p in one.parameters}
    own = {p: spec for p, spec in found.own_parameters.items() if p not in inside}
    if not layer.children or (found.inside and own):
        # Of the whole model, which has all copies, and not what a transform makes for the layer.
        numbers, size = _count(drawn[p] for p in (join(path, p) for p in own) if p in drawn)
        # What a layer does between its children is counted once, for the model as a whole.
        cost = 0 if layer.children else _flops(layer, found, x)
        name = layer.short() if not layer.children else f"{layer.maker}: {', '.join(own)}"
        row = Row(path, name, found.out, numbers, size, cost * copies)
        yield row._replace(receptive_field=_field(layer, x)) if fields else row
    for name, child in layer.children.items():
        inputs = found.inputs[name]
        here, times = join(path, name), copies * layer.copies
        total = [list(_rows(child, x, here, times, drawn, fields)) for x in inputs]
        # Several calls share their parameters; their FLOPs add up.
        for same in zip(*total, strict=True):
            yield same[-1]._replace(flops=sum(row.flops for row in same))


def _field(layer: Layer, x: PyTree) -> ReceptiveField | None:
    """The receptive field of a layer from a sequence to a sequence."""
    if any(len(leaf.shape) < 2 for leaf in jax.tree.leaves(x)):
        return None
    try:
        made = sequences_in(trace(layer, tracking(x)).out)
    except LayerError:
        return None
    return made[0]._receptive_field if len(made) == 1 else None


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
