"""What the cells with a matrix for a state share: from a core cell to ``CellDefinition``."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ...base.errors import LayerError
from ...base.types import Params, Spec
from ...core.recurrent.chunking import Carry
from ...core.recurrent.matrix_cells import MatrixCell
from ...core.recurrent.stepwise import ScanOptions
from .cell import CarrySpecs, CellDefinition, Parameters


def matrix_definition(
    name: str,
    parameters: Callable[[Spec], Parameters],
    carry: Callable[[Spec], CarrySpecs],
    make: Callable[[Params], MatrixCell],
    float32: tuple[str, ...] = (),
) -> CellDefinition:
    """The definition of a cell that ``make`` gives for its parameters."""

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        # Chunks know of no resets, and the plain scan alone has the choice that method= makes.
        if options.zoneout or method is not None or options.resets is not None:
            return None
        return make(params).run(x, carry, options)

    return CellDefinition(
        name=name,
        parameters=parameters,
        carry=carry,
        bind=lambda params, _: make(params).step_cell(),
        scan=scan,
        float32=float32,
        has_product=False,
    )


def size_of_head(
    num_heads: int, head_dim: int | None, features: int, hint: str | None = "head_dim=..."
) -> int:
    """``head_dim``, or an equal part of the features for each head."""
    if head_dim is not None:
        return head_dim
    if features % num_heads:
        raise LayerError(f"{num_heads} heads do not divide {features} features", hint=hint)
    return features // num_heads
