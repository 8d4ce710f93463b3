"""picture: a model as an SVG, drawn by the code of this package alone."""

from __future__ import annotations

import os
from typing import NamedTuple

from ...base import arguments
from ...base.constructors import LayerOrFunction, lift
from ...base.errors import LayerError, public_api
from ...base.tracing import trace
from ...base.types import PyTree
from .blocks import Block
from .model import model_block
from .svg import svg_text


class Picture(NamedTuple):
    """A picture of a model. A notebook shows it; ``save`` writes it to a file.

    Attributes:
      svg: the text of the SVG.
      block: the boxes and lines, with their places in pixels.
    """

    svg: str
    block: Block

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        size = f"{self.block.width:.0f} x {self.block.height:.0f}"
        return f"<picture of {len(self.block.boxes)} boxes, {size} pixels>"

    @public_api
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the SVG to a file.

        Raises:
          LayerError: for a name that does not end in ``.svg``.
        """
        name = os.fspath(path)
        if not name.endswith(".svg"):
            raise LayerError("the file of a picture is an SVG", expected="name.svg", got=name)
        with open(name, "w", encoding="utf-8") as file:
            file.write(self.svg)


@public_api
def picture(
    layer: LayerOrFunction, x: PyTree | None = None, *, depth: int | None = None
) -> Picture:
    """A picture of a model: ``serial`` from top to bottom, branches side by side.

    ``residual`` has a line around its body, ``repeat`` a frame with the number of copies. What a
    function wires, as in ``compose``, is drawn in the order of its calls, with a line for each
    value that one takes from another; without ``x`` it has no lines.

    Args:
      layer: a model.
      x: arrays or ``jax.ShapeDtypeStruct``s; with it the picture has the shapes between layers and
        the number of parameters, of all copies.
      depth: how many levels of layers inside layers are drawn; all by default.

    Raises:
      LayerError: where ``x`` does not fit the model.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(64), jax.nn.relu, head=jl.Dense(10))
    >>> jl.picture(model, jl.spec((32, 784)))
    <picture of 5 boxes, 184 x 326 pixels>
    >>> print(jl.picture(model).svg[:40])
    <svg xmlns="http://www.w3.org/2000/svg"
    """
    layer = lift(layer)
    if depth is not None:
        depth = arguments.positive("depth", depth)
    if x is not None:
        trace(layer, x)
    block = model_block(layer, x, depth)
    return Picture(svg_text(block, repr(layer)), block)
