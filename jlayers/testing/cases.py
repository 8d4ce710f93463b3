"""A layer with values to check it on, and its compiled programs, which the laws share."""

from __future__ import annotations

from typing import Any

import jax

from ..base.layer import Layer
from ..base.specs import format_spec, path_text, specs_of
from ..base.types import PyTree
from .purity import same_program
from .trees import difference_of, values_for


class Program:
    """``apply`` in one mode, compiled once for one set of shapes: what most laws need of a layer.

    Called with parameters, a state, an input and a key it gives the output and the new state.
    """

    def __init__(self, layer: Layer, train: bool):
        # Counted in Python, which runs when JAX traces and not when it calls.
        self.traces = 0
        self._layer, self._train = layer, train
        self.apply = jax.jit(self._counted)

    def _counted(self, params: PyTree, state: PyTree, x: PyTree, key: Any) -> Any:
        self.traces += 1
        return self.once(params, state, x, key)

    def once(self, params: PyTree, state: PyTree, x: PyTree, key: Any) -> Any:
        return self._layer.apply(params, state, x, key=key, train=self._train)

    def without_key(self, params: PyTree, state: PyTree, x: PyTree, key: Any) -> Any:
        """The same where there is no key. It takes one, so that equal programs look alike."""
        return self._layer.apply(params, state, x, key=None, train=self._train)


class Case:
    """A layer, an input and values for both, in the dtypes that came in."""

    def __init__(self, layer: Layer, x: PyTree):
        self.layer = layer
        # Fixed: a check that fails has to fail again.
        self.key = jax.random.key(7)
        self.x = values_for(x)
        self.params, self.state = layer.init(self.key, self.x)
        self.programs = {train: Program(layer, train) for train in (False, True)}
        self.args = (self.params, self.state, self.x, self.key)
        self.jaxprs = {
            train: program.apply.trace(*self.args).jaxpr for train, program in self.programs.items()
        }
        self.modes: tuple[bool, ...] = (False, True)
        if same_program(self.jaxprs[False], self.jaxprs[True]):
            # Where training runs the same program, checking it twice costs compilations alone.
            self.modes, self.programs[True] = (False,), self.programs[False]

    def run(self, train: bool, **changed: PyTree) -> Any:
        """The output and the new state, by the one program of that mode."""
        given = dict(zip(("params", "state", "x", "key"), self.args, strict=True)) | changed
        return self.programs[train].apply(*given.values())

    def fail(self, law: int, text: str) -> None:
        raise AssertionError(f"law {law}: {self.layer.short()}: {text}")

    def same(self, law: int, text: str, got: PyTree, expected: PyTree, **tolerance: Any) -> None:
        if jax.tree.structure(got) != jax.tree.structure(expected):  # type: ignore[operator]
            found, wanted = (format_spec(specs_of(tree)) for tree in (got, expected))
            self.fail(law, f"{text}: structure {found}, not {wanted}")
        for (path, a), b in zip(
            jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True
        ):
            where = f"{text} {path_text(path)}".strip()
            if a.dtype != b.dtype or a.shape != b.shape:
                specs = (jax.ShapeDtypeStruct(c.shape, c.dtype) for c in (a, b))
                self.fail(law, f"{where}: {', not '.join(map(format_spec, specs))}")
            if difference := difference_of(a, b, **tolerance):
                self.fail(law, f"{where} differs: {difference}")

    def same_specs(self, law: int, text: str, got: PyTree, expected: PyTree) -> None:
        """Structure, shapes and dtypes; not the values."""
        if specs_of(got) != specs_of(expected):
            self.fail(
                law, f"{text}: {format_spec(specs_of(got))}, not {format_spec(specs_of(expected))}"
            )
