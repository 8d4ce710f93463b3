"""One table of transforms: each public one, as a function of a layer and of a path of a weight."""

from collections.abc import Callable
from typing import NamedTuple

import jlayers as jl
from jlayers import transforms


class Transform(NamedTuple):
    """A row.

    Attributes:
      wrap: ``wrap(layer, path)``, around a layer with a weight of two axes or more at this path.
      differences: whether gradients of any layer stay those of differences.
      last: whether it comes around all others, since it takes the weight away.
    """

    wrap: Callable[[jl.Layer, str], jl.Layer]
    differences: bool = True
    last: bool = False


BELOW = 1e9  # no gradient of a test reaches it
# Laws are checked in float64 too: a rule of a dtype would round.
AS_GIVEN = transforms.Precision(output="input")

TRANSFORMS = {
    "clip_gradients": Transform(
        lambda layer, path: transforms.clip_gradients(layer, "**", norm=BELOW)
    ),
    "dora": Transform(lambda layer, path: transforms.dora(layer, path, rank=2), differences=False),
    "ema": Transform(lambda layer, path: transforms.ema(layer, 0.9, path)),
    "freeze": Transform(transforms.freeze, differences=False),
    "gradient_checkpoint": Transform(lambda layer, path: transforms.gradient_checkpoint(layer)),
    "inference": Transform(lambda layer, path: jl.inference(layer)),
    "lora": Transform(lambda layer, path: transforms.lora(layer, path, rank=2, alpha=1.0)),
    "orthogonalize_weights": Transform(jl.orthogonalize_weights),
    "precision": Transform(lambda layer, path: transforms.precision(layer, AS_GIVEN)),
    "prune": Transform(transforms.prune),
    "quantize": Transform(transforms.quantize, last=True),
    "spectral_norm": Transform(jl.spectral_norm, differences=False),
    "standardize_weights": Transform(jl.standardize_weights),
    "stop_gradient": Transform(lambda layer, path: transforms.stop_gradient(layer), False),
    "weight_norm": Transform(jl.weight_norm),
}


def stacked(layer: jl.Layer, path: str, names: list[str]) -> jl.Layer:
    """The transforms of these names around a layer, in this order but for those that come last."""
    for name in sorted(names, key=lambda name: TRANSFORMS[name].last):
        layer = TRANSFORMS[name].wrap(layer, path)
    return layer
