"""parameters and variables: the table from which a model is initialised."""

from __future__ import annotations

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import public_api
from ..base.parameters import ParamSpec
from ..base.tracing import trace
from ..base.types import PyTree


@public_api
def parameters(layer: LayerOrFunction, x: PyTree) -> dict[str, ParamSpec]:
    """How each parameter of a model is made, by its path. Nothing is computed.

    ``init`` draws its parameters from this table.

    Args:
      layer: a model.
      x: arrays or ``jax.ShapeDtypeStruct``s.

    Returns:
      ``{path: ParamSpec}`` with an entry for each array that ``init`` puts into ``params``: its
      shape, its dtype, its initialiser, and how many copies are stacked in it.

    Raises:
      LayerError: where ``x`` does not fit the model.

    >>> import jlayers as jl
    >>> model = jl.serial(jl.LayerNorm(), head=jl.Dense(10))
    >>> for path, spec in jl.parameters(model, jl.spec((32, 784))).items():
    ...     print(path, spec)
    layer_norm/scale ParamSpec(jax.nn.initializers.ones, float32[784])
    layer_norm/bias ParamSpec(jax.nn.initializers.zeros, float32[784])
    head/kernel ParamSpec(jax.nn.initializers.variance_scaling(...), float32[784, 10])
    head/bias ParamSpec(jax.nn.initializers.zeros, float32[10])
    """
    # A copy: the table is cached with the layer, and ``init`` draws from it.
    return dict(trace(lift(layer), x).parameters)


@public_api
def variables(layer: LayerOrFunction, x: PyTree) -> dict[str, ParamSpec]:
    """How each array of a model's state is made, by its path; see ``parameters``.

    >>> import jlayers as jl
    >>> list(jl.variables(jl.serial(jl.Dense(3), jl.BatchNorm()), jl.spec((32, 784))))
    ['batch_norm/mean', 'batch_norm/var']
    """
    return dict(trace(lift(layer), x).variables)
