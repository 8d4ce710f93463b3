"""explain: which algorithm computes each layer of a model, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import public_api
from ..base.layer import Layer
from ..base.paths import join
from ..base.specs import specs_of
from ..base.tracing import Trace, trace
from ..base.types import PyTree
from ..core.compiler import check_platform, compiler_options
from ..core.dispatch import Record, recording
from .summary_columns import table_text

if TYPE_CHECKING:  # as in summary
    import rich.console


class Decision(NamedTuple):
    """One operation for which there are several algorithms.

    Attributes:
      path: of the layer; ``""`` for the model's own.
      layer: its ``repr`` in one line.
      operation: the function of ``jlayers.core``.
      method: the algorithm, as ``method=`` names it.
      reason: why it was chosen.
    """

    path: str
    layer: str
    operation: str
    method: str
    reason: str


class Explanation(NamedTuple):
    """The decisions for one platform; ``str`` and ``print`` give a table.

    Attributes:
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
      decisions: in the order of the layers.
      compiler_options: those of XLA that ``training.fit`` compiles a step with.
    """

    platform: str
    decisions: tuple[Decision, ...]
    compiler_options: dict[str, bool | str] = {}  # noqa: RUF012  # never changed

    def __str__(self) -> str:
        return table_text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> rich.console.RenderableType:
        import rich.box
        import rich.console
        import rich.markup
        import rich.table
        import rich.text

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for title in ("path", "layer", "operation", "method", f"why on {self.platform}"):
            table.add_column(title, overflow="fold")
        for row in self.decisions:
            table.add_row(*map(rich.markup.escape, row))
        if not self.compiler_options:
            return table
        # No caption of the table, which would be broken at the width of a narrow one.
        line = f"jl.compiler_options(): {', '.join(self.compiler_options)}"
        return rich.console.Group(table, rich.text.Text(line, style="table.caption"))


@public_api
def explain(layer: LayerOrFunction, x: PyTree, *, platform: str | None = None) -> Explanation:
    """Which algorithm computes each layer for inputs shaped like ``x``, and why.

    Layers with a single algorithm, such as ``Dense``, have no row. Nothing is computed.

    Args:
      layer: a model.
      x: arrays or ``jax.ShapeDtypeStruct``s.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``; by default the one JAX uses here.

    Returns:
      An ``Explanation``: print it for a table, read its ``decisions``.

    Raises:
      LayerError: where ``x`` does not fit the model.
      ValueError: for another platform.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Conv(8, 1), jax.nn.relu, jl.Conv(8, 3, groups=8), jl.MaxPool(2))
    >>> for row in jl.explain(model, jl.spec((4, 16, 16, 3)), platform="cpu").decisions:
    ...     print(row.path, row.operation, row.method)
    conv conv matmul
    conv_1 conv shifted
    max_pool max_pool axes
    """
    layer, platform = lift(layer), platform or jax.default_backend()
    check_platform(platform)
    trace(layer, x)  # before the specs are taken, for the error that names the layer
    decisions = tuple(_decisions(layer, specs_of(x), "", platform))
    return Explanation(platform, decisions, compiler_options(platform))


def _decisions(layer: Layer, x: PyTree, path: str, platform: str) -> Iterator[Decision]:
    found, own = trace(layer, x), []
    # A transform of weights has operations that the layer inside, with arrays, has not.
    if not layer.children or layer._weights.change is not None:
        own = _records(layer, found, x, platform)
    inside: list[Decision] = []
    for name, child in layer.children.items():
        # Calls with different shapes may be computed by different algorithms.
        for inputs in found.inputs[name]:
            inside += _decisions(child, inputs, join(path, name), platform)
    known = {decision[2:] for decision in inside}
    for record in own:
        if (record.operation, *record.choice) not in known:
            yield Decision(path, layer.short(), record.operation, *record.choice)
    yield from inside


def _records(layer: Layer, found: Trace, x: PyTree, platform: str) -> list[Record]:
    with recording(platform) as records:
        jax.eval_shape(
            # train=True, since dropout and batch norm may choose otherwise there.
            lambda params, state, key, x: layer._apply(params, state, x, key=key, train=True),
            found.params,
            found.state,
            jax.random.key(0),
            x,
        )
    # A layer under scan is traced more than once.
    return list(dict.fromkeys(records))
