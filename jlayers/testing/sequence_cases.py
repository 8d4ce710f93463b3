"""A layer with values, parameters and masks to try it with as a layer of sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.adapters import out_spec
from ..base.errors import LayerError
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.sequence_mode import without_masks
from ..base.specs import format_spec, path_text, specs_of
from ..base.types import PyTree
from ..sequences.streaming import stream
from .purity import same_program
from .trees import (
    as_float,
    difference_of,
    floats_of,
    is_float,
    map_numpy,
    values_for,
    with_floats,
)


class Result(NamedTuple):
    """What a layer gives, what is valid of that, and the gradient of a loss of what is."""

    y: Any
    valid: Any
    state: Any
    gradient: Any


class SequenceCase:
    """A layer with values, parameters and masks to try it with."""

    def __init__(self, layer: Any, x: PyTree, tolerance: float, random: np.random.Generator):
        self.layer, self.tolerance, self.random = layer, tolerance, random
        self.x = as_float(values_for(without_masks(x)), jnp.float64)
        leads = {leaf.shape[:2] for leaf in jax.tree.leaves(self.x)}
        # One mask is put on all leaves.
        if len(leads) != 1 or len(next(iter(leads))) != 2:
            raise LayerError("takes an input (batch, time, ...)", got=format_spec(specs_of(x)))
        (self.lead,) = leads
        params, state = layer.init(jax.random.key(5), self.x)
        self.params, self.state = as_float(params, jnp.float64), as_float(state, jnp.float64)
        self.key = jax.random.key(3)
        self.modes = self._modes()
        batch, steps = self.lead
        lengths = random.integers(0, steps + 1, batch)
        # A full row and an empty one are the edges at which masks are wrong most often.
        lengths[0], lengths[-1] = steps, 0 if batch > 2 else steps // 2
        # Masks that no lengths describe.
        holes = random.random(self.lead) < 0.6
        self.lengths = lengths
        in_front = np.arange(steps) >= steps - lengths[:, None]
        # Padding behind, with holes, and in front, where positions and windows go wrong first.
        self.masks = [np.arange(steps) < lengths[:, None], holes, in_front]
        y = out_spec(layer, self.masked(self.x, holes))
        found = sequences_in(y)
        self.gives_steps = len(found) == len(jax.tree.leaves(y, is_leaf=is_sequence))
        self.stride = 1
        self.unstreamed = self._refusal() if self.gives_steps else "its output has no steps"
        self.streams = self.unstreamed is None
        if self.streams:
            self.stride = self._block(max(steps // max(found[0].shape[1], 1), 1))
        # One program for each mode, for sequences of these shapes, whatever is asked of them.
        self.run = {train: self.program(self._apply(train)) for train in self.modes}

    def _apply(self, train: bool) -> Callable[[PyTree, PyTree], Any]:
        return lambda params, x: self.layer.apply(params, self.state, x, key=self.key, train=train)

    def _modes(self) -> tuple[bool, ...]:
        jaxprs = (jax.make_jaxpr(self._apply(mode))(self.params, self.x) for mode in (False, True))
        # Where training runs the same program, checking it twice costs compilations alone.
        return (False,) if same_program(*jaxprs) else (False, True)

    def _refusal(self) -> str | None:
        """Why it cannot be streamed."""
        start = stream(self.layer, capacity=self.lead[1]).start
        try:
            jax.eval_shape(start, self.params, self.state, self.x)
        except LayerError as error:
            # Any other error is one of the layer, which a check has to show.
            if "cannot be streamed" not in error.problem:
                raise
            return str(error).splitlines()[0]
        return None

    def _block(self, stride: int) -> int:
        """The shortest blocks that the layer takes, of a multiple of its stride."""
        start, step = stream(self.layer, capacity=self.lead[1])
        carry = jax.eval_shape(start, self.params, self.state, self.x)

        def takes(size: int) -> bool:
            part = jax.tree.map(lambda leaf: leaf[:, :size], self.x)
            try:
                jax.eval_shape(step, self.params, self.state, carry, part)
            except LayerError as error:
                # Of another size it is another error, which a check has to show.
                if size == self.lead[1] or "multiple of" not in f"{error.problem} {error.hint}":
                    raise
                return False
            return True

        # Longer than the stride where a layer inside undoes the stride of another.
        sizes = range(stride, self.lead[1] + 1, stride)
        return next((size for size in sizes if takes(size)), stride)

    def in_front(self, tree: PyTree) -> PyTree:
        """(batch, time, ...) with the padding behind each row moved in front of it."""
        steps = np.arange(self.lead[1])
        source = (steps - (self.lead[1] - self.lengths)[:, None]) % self.lead[1]

        def move(leaf: Any) -> np.ndarray:
            places = source.reshape(*source.shape, *(1,) * (np.ndim(leaf) - 2))
            return np.take_along_axis(np.asarray(leaf), places, 1)

        return map_numpy(move, tree)

    def masked(self, x: PyTree, mask: Any) -> PyTree:
        """``x`` as Sequences, or as it is without a mask."""
        if mask is None:
            return x
        return jax.tree.map(lambda leaf: Sequence(leaf, jnp.asarray(mask)), x)

    def program(self, apply: Callable[[PyTree, PyTree], Any]) -> Callable[[PyTree], Result]:
        """``apply(params, x)``, which gives outputs and a state, compiled with its gradient."""

        def loss(at: PyTree, rest: PyTree) -> Any:
            y, state = apply(at["params"], with_floats(at["x"], rest))
            valid = valid_of(y)
            floats = floats_of(valid)
            weights = [jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in floats]
            terms = (jnp.sum(jnp.sin(a) * w) for a, w in zip(floats, weights, strict=True))
            return sum(terms, jnp.zeros(())), (y, valid, state)

        @jax.jit
        def run(params: PyTree, x: PyTree) -> Result:
            at = {"params": params, "x": floats_of(x)}
            gradient, (y, valid, state) = jax.grad(loss, has_aux=True)(at, x)
            return Result(y, valid, state, gradient)

        return lambda x: run(self.params, x)

    def splits(self) -> list[list[int]]:
        """Sizes of blocks: the smallest, and random ones."""
        blocks, found = self.lead[1] // self.stride, []
        for cuts in (blocks - 1, min(2, blocks - 1)):
            places = np.sort(self.random.permutation(np.arange(1, blocks))[:cuts])
            sizes = np.diff([0, *places, blocks]) * self.stride
            sizes[-1] += self.lead[1] - sizes.sum()
            found.append([int(size) for size in sizes])
        return [list(sizes) for sizes in dict.fromkeys(map(tuple, found))]

    def same(self, what: str, got: PyTree, expected: PyTree) -> None:
        for (path, a), b in zip(
            jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True
        ):
            where = f"{what} {path_text(path)}".strip()
            if a.shape != b.shape:
                self.fail(f"{where}: {a.shape}, not {b.shape}")
            if difference := difference_of(a, b, rtol=self.tolerance, atol=self.tolerance):
                self.fail(f"{where} differs: {difference}")

    def fail(self, text: str) -> None:
        raise AssertionError(f"{self.layer.short()}: {text}")


def valid_of(y: PyTree) -> PyTree:
    """The tree with what is valid of each Sequence, zeros elsewhere, and the mask beside."""
    return jax.tree.map(
        lambda node: (node.fill(), node.mask) if is_sequence(node) else node,
        y,
        is_leaf=is_sequence,
    )


def spoiled(x: PyTree, mask: np.ndarray, garbage: float) -> PyTree:
    """``x`` with garbage where the mask is False, and zeros there in its integers."""

    def spoil(leaf: Any) -> np.ndarray:
        inside = mask.reshape(*mask.shape, *(1,) * (leaf.ndim - 2))
        worst = garbage if is_float(leaf) else 0
        return np.where(inside, leaf, np.asarray(worst, leaf.dtype))

    return jax.tree.map(spoil, x)
