"""precision: the dtypes of a model's layers, by path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jax.typing import DTypeLike

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..base.paths import join
from ..inspection.traverse import walk
from .casts import is_in_precision, layer_in_precision, without_cast_parameters
from .precision_rules import AS_COMPUTED, AS_INPUT, Precision, RuleTable

# They compute nothing: the layers inside cast what they are given.
_ROUTES = ("serial", "parallel", "branch")
# What they join has to be of one dtype. A layer without a factory is a block of a transformer, or
# one that a user wrote by hand.
_MERGES = ("add", "average", "concat", "maximum", "minimum", "multiply", "residual")
_JOINS = (*_MERGES, "bidirectional", "layer")
# Transparent, and their layer's output is its next input.
_LOOPS = ("repeat", "pipeline")


@factory
def precision(
    layer: LayerOrFunction, rules: Precision | DTypeLike | Mapping[str, Precision | DTypeLike]
) -> Layer:
    """The model with layers in given dtypes, by path: mixed precision, and float32 islands in it.

    A rule is a dtype, which is that of the arithmetic, or a ``Precision``. ``"mixed"`` is float32
    for the parameters and bfloat16 for the arithmetic; ``"mixed_float16"`` needs a
    ``training.LossScale``. A rule is for the layers that its pattern fits, and for all inside
    them; where several fit, the first counts. ``"**"`` is for all that no other fits, and for the
    model itself; a rule without a pattern is one for ``"**"``.

    Inputs are cast where a layer with a rule is entered. The output of a part with rules is cast
    back to the dtype of its input, so that the model's output has the dtype that it has without
    (with integer inputs: as the last layer computed it). So has what is added or concatenated, and
    each copy of a ``repeat``. Statistics in the state stay in float32.

    Names and paths stay as they are. A layer that has a precision already keeps it.

    Args:
      layer: a model.
      rules: a rule, or a dict of patterns and rules; see ``jl.select`` for patterns.

    Raises:
      LayerError: for a rule that fits no layer or comes too late, for a dtype that is not floating,
        and for float64 where JAX has none.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(8), jl.LayerNorm(), head=jl.Dense(3))
    >>> mixed = jl.transforms.precision(model, {"layer_norm": "float32", "**": "bfloat16"})
    >>> mixed
    precision(
        serial(Dense(8), LayerNorm(), head=Dense(3)),
        {'layer_norm': 'float32', '**': 'bfloat16'},
    )
    >>> jl.out_spec(mixed, jl.spec((2, 4)))
    ShapeDtypeStruct(shape=(2, 3), dtype=float32)
    >>> program = str(jax.make_jaxpr(mixed.apply)(*mixed.init(jax.random.key(0), jl.spec((2, 4))),
    ...     jax.numpy.ones((2, 4))))
    >>> "bf16[2,3] = dot_general" in program
    True
    """
    layer, table = lift(layer), RuleTable(rules)
    visit = _Visit(table)
    found = visit.layer(layer, "", None, AS_INPUT)
    table.check_used(visit.used, visit.paths, visit.kept)
    # The kind is the layer's own, and not this function's name.
    return found._replace(kind=layer.kind, _named=True)


@public_api
def without_precision(layer: LayerOrFunction) -> Layer:
    """The model without its rules of precision: all layers are again in the dtype of their input.

    Parameters keep the dtypes that they are stored in.

    Raises:
      LayerError: for a model without such rules.

    >>> import jlayers as jl
    >>> mixed = jl.transforms.precision(jl.serial(jl.Dense(8), head=jl.Dense(3)), "mixed")
    >>> jl.transforms.without_precision(mixed)
    serial(Dense(8), head=Dense(3))
    """
    layer = lift(layer)
    found = _taken_off(layer)
    if found is layer:
        raise LayerError("the model has no precision to take off", got=layer.short())
    return found


def _taken_off(layer: Layer) -> Layer:
    new = {name: _taken_off(child) for name, child in layer.children.items()}
    if is_in_precision(layer):
        return without_cast_parameters(new[""])
    changed = any(new[name] is not child for name, child in layer.children.items())
    return layer.rebuild(new) if changed else layer


class _Visit:
    """One walk over a model, which wraps its layers."""

    def __init__(self, table: RuleTable):
        self.table = table
        self.used: set[int] = set()
        self.paths: list[str] = []
        self.kept: list[str] = []

    def layer(self, layer: Layer, path: str, above: int | None, output: str) -> Layer:
        """A layer with its rules.

        Args:
          above: the place of the rule of the layer around it.
          output: what becomes of its output, if its rule does not say.
        """
        if is_in_precision(layer):
            inside = [own for own, _ in walk(layer, path)]
            self.paths += inside
            self.kept += inside
            return layer
        self.paths.append(path)
        place = self.table.find(path, above)
        # The combinator, which a factory around it hides.
        maker = layer.rebuild(layer.children).maker if layer.children else layer.maker
        passes = maker in _ROUTES or ("" in layer.children and maker not in _LOOPS)
        new = {}
        for name, child in layer.children.items():
            # A wrapper and the layer inside it have one path, and one rule.
            if not name:
                after = AS_INPUT if maker in _LOOPS else output
                at = above if passes else place
            else:
                after = AS_INPUT if place is None or maker in _JOINS else AS_COMPUTED
                at = place
            new[name] = self.layer(child, join(path, name), at, after)
        if any(new[name] is not child for name, child in layer.children.items()):
            layer = layer.rebuild(new)
        if place is None or ("" in new and passes):
            return layer
        self.used.add(place)
        rule = self.table.rules[place]
        # Inside the outermost layer of a rule its output is an intermediate result.
        if rule.output is None or place == above:
            rule = dataclasses.replace(rule, output=output)
        if maker in _ROUTES:
            rule = Precision(output=rule.output)
        does_nothing = rule in (Precision(), Precision(output=AS_COMPUTED))
        return layer if does_nothing else layer_in_precision(layer, rule)
