"""Functions that declare no sequence mode: whether they act on each step alone is found out.

A function that a user wrote may mix steps, read positions or count steps. Where it meets a mask or
a stream it is looked at, by ``dependence``, and refused if it does. Plain arrays without
masks never come here.

How to read this file: ``Examined`` looks at one function and remembers what it saw; ``of_mask`` and
``of_stream`` turn a verdict into the error that names the user's line.
"""

from __future__ import annotations

import contextlib
import contextvars
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax import lax

from .errors import LayerError
from .memo import remember
from .types import PyTree

if TYPE_CHECKING:
    from .dependence import Verdict, Why

# While a body is looked at, at sizes of its own, its children are not: they are by themselves.
_LOOKING = contextvars.ContextVar("jlayers_looking", default=False)
# A function that serves every layer, such as jax.nn.relu, is looked at once for each input.
_SEEN: weakref.WeakKeyDictionary[Any, dict[Any, list[Verdict]]] = weakref.WeakKeyDictionary()


def is_looking() -> bool:
    """Whether a body is being looked at, and not run."""
    return _LOOKING.get()


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """The time in which a body is looked at."""
    token = _LOOKING.set(True)
    try:
        yield
    finally:
        _LOOKING.reset(token)


def opaque(specs: list[Any], given: list[Any], name: str = "") -> list[jax.Array]:
    """Arrays of these specs, from a call that is not looked into: what it does is known.

    Args:
      name: by which it is found in the program.
    """
    from .dependence import OPAQUE

    def jlayers_opaque(given: list[Any]) -> list[jax.Array]:
        # Not jnp.zeros, which cannot make keys.
        return [lax.full(spec.shape, 0, spec.dtype) for spec in specs]

    jlayers_opaque.__name__ = OPAQUE + name
    return jax.jit(jlayers_opaque)(given)  # type: ignore[no-any-return]


def _with_numbers(plain: tuple[PyTree, ...], x: PyTree) -> tuple[tuple[PyTree, ...], PyTree]:
    """The same specs with numbers for sizes that have none."""
    leaves, structure = jax.tree.flatten((plain, x))
    if all(isinstance(dim, int) for leaf in leaves for dim in leaf.shape):
        return plain, x
    from .dependence import numbered

    return jax.tree.unflatten(structure, numbered(leaves))  # type: ignore[no-any-return]


class Examined:
    """A function, and what was seen of it.

    Args:
      function: by which it is remembered, however many layers are made of it.
    """

    def __init__(self, function: Any):
        try:
            self._seen = _SEEN.setdefault(function, {})
        except TypeError:  # not every callable can be referred to weakly
            self._seen = {}
        self._of_arrays: dict[Any, list[bool]] = {}

    def verdicts(
        self,
        run: Callable[..., PyTree],
        plain: tuple[PyTree, ...],
        x: PyTree,
        timed: PyTree,
        lead: int,
        train: bool = False,
    ) -> list[Verdict]:
        """What the outputs of ``run(*plain, x)`` are.

        Args:
          plain: arguments without steps, such as parameters.
          x: values, or specs of them.
          timed, lead: which of its arrays have steps, as for ``dependence.judge``.
          train: for which mode this is, of two that are remembered apart.
        """
        plain, x = _with_numbers(plain, x)
        known = (train, lead, _known(plain, x, timed))
        verdicts = self._seen.get(known)
        if verdicts is None:
            # Only here, where it is needed: most programs never import the analysis.
            from .dependence import Verdict, judge_call

            found = judge_call(run, *plain, x, timed=(*[False] * len(plain), timed), lead=lead)
            # A verdict is a tuple, which jax.tree would look into.
            judged: list[Verdict] = jax.tree.leaves(
                found, is_leaf=lambda node: isinstance(node, Verdict)
            )
            verdicts = remember(self._seen, known, judged)
        return verdicts

    def of_arrays(
        self,
        run: Callable[..., PyTree],
        plain: tuple[PyTree, ...],
        x: PyTree,
        masked: PyTree,
        train: bool,
        lead: int = 2,
    ) -> list[bool]:
        """Which outputs of ``run(*plain, x)`` are made of arrays of ``x`` that have no mask.

        Args:
          plain, x, train, lead: as for ``verdicts``.
          masked: for each array of ``x``, whether it has a mask.
        """
        plain, x = _with_numbers(plain, x)
        known = (train, lead, _known(plain, x, masked))
        found = self._of_arrays.get(known)
        if found is None:
            from .dependence import results_reached

            kinds = jax.tree.leaves(masked)
            others = [False] * len(jax.tree.leaves(plain))
            program, out = jax.make_jaxpr(run, return_shape=True)(*plain, x)
            of_masked = results_reached(program, [*others, *kinds])
            of_rest = results_reached(program, [*others, *(not kind for kind in kinds)])
            made = [b and not a for a, b in zip(of_masked, of_rest, strict=True)]
            # Constants, such as zeros like an array, have the steps that they are made with.
            if lead == 2 and not all(a or b for a, b in zip(of_masked, of_rest, strict=True)):
                apart = _of_their_steps(run, plain, x, kinds, jax.tree.leaves(out))
                zipped = zip(made, of_masked, apart, strict=True)
                made = [own or (alike and not a) for own, a, alike in zipped]
            found = remember(self._of_arrays, known, made)
        return found


def _of_their_steps(
    run: Callable[..., PyTree],
    plain: tuple[PyTree, ...],
    x: PyTree,
    masked: list[bool],
    results: Sequence[Any],
) -> list[bool]:
    """Which results have one step more if the arrays beside a Sequence of as many steps do."""
    leaves, structure = jax.tree.flatten(x)
    leads = [leaf.shape[:2] for leaf, mask in zip(leaves, masked, strict=True) if mask]
    longer = [
        (leaf.shape[0], leaf.shape[1] + 1, *leaf.shape[2:])
        if leaf.shape[:2] in leads and not mask
        else leaf.shape
        for leaf, mask in zip(leaves, masked, strict=True)
    ]
    specs = [jax.ShapeDtypeStruct(s, leaf.dtype) for s, leaf in zip(longer, leaves, strict=True)]
    try:
        found = jax.eval_shape(run, *plain, jax.tree.unflatten(structure, specs))
        pairs = list(zip(results, jax.tree.leaves(found), strict=True))
    except Exception:
        # It joins them with the Sequence.
        return [False] * len(results)
    return [len(one.shape) > 1 and one.shape[1] != other.shape[1] for one, other in pairs]


def _known(plain: tuple[PyTree, ...], x: PyTree, kinds: PyTree) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten((plain, x))
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return (x64, structure, *jax.tree.leaves(kinds), *((a.shape, a.dtype) for a in leaves))


POSITIONS = (
    "PositionEmbedding() or SinusoidalPositions(); f.positions(x) in a compose body, which goes on "
    "through padding and streams"
)
_OWN_MASK = "jl.on_sequence(function) for one that uses the mask"


def of_mask(verdict: Verdict, what: str = "") -> LayerError | None:
    """The error of a function that cannot take a mask as it is; None where it can.

    Args:
      verdict: of its output.
      what: it, as the subject of a sentence; a layer goes without, as errors begin with its name.
    """
    from .dependence import UNTRACEABLE

    what = f"{what} " if what else ""
    if verdict.why is not None and verdict.why.reason == UNTRACEABLE:
        return LayerError(
            f"{what}cannot be traced for other sizes: it may read the padding of a Sequence",
            expected="a function of each step alone",
            hint="arrays of the batch as inputs, not from outside the function: a tuple of inputs, "
            f"or x.map(function, array); {_OWN_MASK}",
        )
    if verdict.kind != "each":
        return _error(
            verdict.why,
            f"{what}mixes steps, and would read the padding of a Sequence",
            f"{_OWN_MASK}; or layers that mind it: SelfAttention, Conv, RNN, GlobalAvgPool",
        )
    if verdict.rows:
        return _error(
            verdict.why,
            f"{what}mixes the rows of the batch, and would read the padding of a Sequence",
            f"{_OWN_MASK}; or BatchNorm()",
        )
    if verdict.place:
        return _error(
            verdict.why_place,
            f"{what}depends on where a step is, which padding in front of it changes",
            f"{POSITIONS}; {_OWN_MASK}",
        )
    return None


def of_output(verdict: Verdict) -> LayerError | None:
    """The error of an output that the mask of the input does not fit; None where it does."""
    if error := of_mask(verdict):
        return error
    # In a shape that happens to be the same: another axis may have as many places as time.
    if not (verdict.leads or verdict.constant):
        return _error(verdict.why, "must return steps where it takes them", _OWN_MASK)
    return None


def of_state(verdicts: Sequence[Verdict], what: str = "") -> LayerError | None:
    """The error of a state that is set in training; None where no step and no padding is in it."""
    for verdict in verdicts:
        if not verdict.constant or verdict.place:
            what = f"{what} " if what else ""
            return LayerError(
                f"{what}sets its state from the steps and the padding of a Sequence",
                expected="a state of valid steps",
                got=reason_of(verdict),
                hint="jl.on_sequence(function), which uses the mask: x.mean() is of valid steps",
            )
    return None


def reason_of(verdict: Verdict) -> str:
    """Why a value that should hold no steps is not a constant."""
    return str(verdict.why or "steps and rows are folded into one axis")


def of_stream(verdict: Verdict, what: str = "it") -> LayerError | None:
    """The error of a function that cannot take a block for the whole; None where it can."""
    if verdict.kind == "earlier":
        return _error(
            verdict.why,
            f"cannot be streamed: {what} reads earlier steps",
            "jl.causal(start, step) keeps them in a carry",
        )
    if verdict.kind == "mixed":
        return _error(
            verdict.why,
            f"cannot be streamed: {what} mixes steps",
            "a causal layer: padding='CAUSAL', causal=True, no reverse; jl.causal(start, step)",
        )
    if verdict.place:
        return _error(
            verdict.why_place, f"cannot be streamed: {what} depends on where a step is", POSITIONS
        )
    return None


def _error(why: Why | None, problem: str, hint: str) -> LayerError:
    return LayerError(problem, expected="a function of each step alone", got=str(why), hint=hint)


def first_error(
    verdicts: Sequence[Verdict], of: Callable[[Verdict], LayerError | None]
) -> LayerError | None:
    """The first of the outputs' errors, if there is one."""
    return next((error for verdict in verdicts if (error := of(verdict))), None)
