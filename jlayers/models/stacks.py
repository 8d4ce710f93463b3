"""Models of two inputs: what T5 and Whisper, which read and write, and BERT have in common."""

from __future__ import annotations

from jax.nn import initializers

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..combinators.compose import compose
from ..combinators.stack import repeat


def pair(x: PyTree, first: str, second: str) -> tuple[PyTree, PyTree]:
    """The two entries of ``x``. An array of two rows is not a pair of them."""
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise LayerError(
            "takes a pair", expected=f"({first}, {second})", got=format_spec(specs_of(x))
        )
    return x[0], x[1]


def stacked(block: Layer, num_layers: int) -> Layer:
    """Blocks of a dict: ``"x"`` goes through, and all read what is beside it."""
    one = compose(lambda f, x: {**x, "x": f["block"](x)}, block=block)
    return repeat(one, num_layers)


def with_distances(
    block: Layer, num_layers: int, *, shape: tuple[int, int], drop: Layer, norm: Layer
) -> Layer:
    """``stacked``, all reading one table of distances, of the shape (num_buckets, num_heads)."""

    def body(f: Scope, x: PyTree) -> PyTree:
        bias = f.param("relative_bias", initializers.normal(), shape)
        y = f["blocks"]({**x, "x": f["drop"](x["x"]), "relative_bias": bias})
        return f["drop"](f["norm"](y["x"]))

    return compose(body, drop=drop, blocks=stacked(block, num_layers), norm=norm)
