"""Rules of precision: what a user says of the dtypes of layers, checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..base.errors import LayerError
from ..base.paths import matches, similar_pattern
from ..base.specs import format_short

DTYPES = ("bfloat16", "float16", "float32", "float64")
# What ``output`` may be beside a dtype.
AS_COMPUTED, AS_INPUT = "computed", "input"
REST = "**"


@dataclasses.dataclass(frozen=True, repr=False)
class Precision:
    """The dtypes of a layer; what is None stays as it is without a rule.

    Attributes:
      params: in which its parameters are drawn and stored. They are drawn as without a rule, and
        rounded. By default float32, wider if the input is wider.
      compute: to which its floating inputs are cast. Layers use their parameters in the dtype of
        their input, so this is the dtype of the arithmetic. Where the input holds no floating
        array, as in ``Embedding``, parameters are read as they are stored, and the output is cast.
      output: to which the floating outputs are cast of the outermost layers that the rule is for.
        ``"input"`` for the dtype of the layer's input, ``"computed"`` to leave them as they are.
        By default ``"input"`` where a part with rules ends, and ``"computed"`` inside it.
      accumulate: in which matrix products and convolutions are summed, and rounded afterwards.
        Dtypes are ``"bfloat16"``, ``"float16"``, ``"float32"``, ``"float64"``, or those of JAX.

    Raises:
      LayerError: for another dtype.

    >>> from jlayers import transforms
    >>> transforms.Precision(params="float32", compute="bfloat16")
    Precision(params='float32', compute='bfloat16')
    """

    params: DTypeLike | None = None
    compute: DTypeLike | None = None
    output: DTypeLike | None = None
    accumulate: DTypeLike | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (
                field.name == "output"
                and isinstance(value, str)
                and value in (AS_COMPUTED, AS_INPUT)
            ):
                continue
            if value is not None:
                # By name: such a rule can be compared, hashed and pickled.
                object.__setattr__(self, field.name, _dtype_name(field.name, value))

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return f"Precision({', '.join(f'{n}={v!r}' for n, v in given.items() if v is not None)})"


Rule = Precision | DTypeLike


def _dtype_name(what: str, value: Any) -> str:
    try:
        name: str = jnp.dtype(value).name
    except TypeError:
        near = difflib.get_close_matches(str(value), DTYPES, 1, 0.3)
        raise LayerError(
            f"unknown dtype {format_short(value)} for {what}",
            expected=", ".join(map(repr, DTYPES)),
            hint=repr(near[0]) if near and isinstance(value, str) else None,
        ) from None
    if name not in DTYPES:
        raise LayerError(
            f"{what} must be a floating dtype, got {name!r}",
            expected=", ".join(map(repr, DTYPES)),
            hint="jl.transforms.quantize for weights of few bits" if name[:3] == "int" else None,
        )
    return name


# Keras's names. "mixed" is what is meant by mixed precision where there is no loss scaling.
_NAMED = {
    "mixed": Precision(params="float32", compute="bfloat16"),
    "mixed_bfloat16": Precision(params="float32", compute="bfloat16"),
    "mixed_float16": Precision(params="float32", compute="float16"),
}


def check_available(rule: Precision) -> None:
    """Raises for float64 where JAX has none; it may have in another context."""
    values = [getattr(rule, field.name) for field in dataclasses.fields(rule)]
    if "float64" in values and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise LayerError(
            "float64 is switched off in JAX",
            got=repr(rule),
            hint='jax.config.update("jax_enable_x64", True)',
        )


def as_precision(rule: object) -> Precision:
    """A rule as a user may write it."""
    if isinstance(rule, Precision):
        return rule
    if isinstance(rule, str) and rule in _NAMED:
        return _NAMED[rule]
    if rule is None or isinstance(rule, Mapping):
        raise LayerError(
            "a rule must be a dtype or a Precision",
            expected='"bfloat16", "mixed", Precision(compute="bfloat16")',
            got=format_short(rule),
        )
    return Precision(compute=rule)  # type: ignore[arg-type]


class RuleTable:
    """Rules by path: the first that fits a layer, or a layer around it, is its rule.

    A rule is known by its place in the table; the last place is that of ``"**"``, which is for all
    layers that no other rule fits, and the model itself.
    """

    def __init__(self, rules: object):
        table = rules if isinstance(rules, Mapping) else {REST: rules}
        for pattern in table:
            if not isinstance(pattern, str):
                raise LayerError(
                    f"a pattern must be a text, got {format_short(pattern)}",
                    expected='{"**/layer_norm*": "float32", "**": "bfloat16"}',
                )
        if not table:
            raise LayerError("there are no rules", expected='{"**": "bfloat16"}')
        order = [pattern for pattern in table if pattern != REST] + [REST] * (REST in table)
        self.patterns = tuple(order)
        self.rules = tuple(as_precision(table[pattern]) for pattern in order)

    def find(self, path: str, above: int | None) -> int | None:
        """The place of the rule of a layer inside one with the rule ``above``."""
        for place, pattern in enumerate(self.patterns):
            if place == above or pattern == REST or matches(path, pattern):
                return place
        return None

    def check_used(self, used: set[int], paths: Sequence[str], kept: Sequence[str]) -> None:
        """Raises for a rule that no layer has.

        Args:
          used: the places of those that have layers.
          paths: of all layers.
          kept: of the layers that had a precision before.
        """
        for place, pattern in enumerate(self.patterns):
            if place in used or pattern == REST:
                continue
            fitting = [path for path in paths if path and matches(path, pattern)]
            if not fitting:
                shown = ", ".join([path for path in paths if path][:20]) or "nothing inside"
                hint = similar_pattern(pattern, paths)
                raise LayerError(f"the rule {pattern!r} fits no layer", got=shown, hint=hint)
            if any(path in kept for path in fitting):
                raise LayerError(
                    f"the rule {pattern!r} changes nothing: these layers have a precision already",
                    got=", ".join(fitting[:20]),
                    hint="one table with all rules",
                )
            earlier = next(
                one for one in self.patterns[:place] if any(_covers(one, path) for path in fitting)
            )
            raise LayerError(
                f"the rule {pattern!r} is never used: {earlier!r} comes first and fits the same",
                got=", ".join(fitting[:20]),
                hint=f"{pattern!r} before {earlier!r}",
            )
        if not used:
            raise LayerError("every layer has a precision already", hint="one table with all rules")


def _covers(pattern: str, path: str) -> bool:
    names = path.split("/")
    return any(matches("/".join(names[: i + 1]), pattern) for i in range(len(names)))
