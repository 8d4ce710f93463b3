"""Jaxprs inside equations: functions, branches and loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..call import Call, Emitted, emits, full, loose
from ..graph import Graph
from ..values import Known, Pair, Tensor, Value
from .arithmetic import where
from .complexes import parts_of, real_aval


@emits("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")
def inline(call: Call) -> Emitted:
    name = str(call.params.get("name", ""))
    operator = call.converter.operators.get(name)
    if operator is not None and (found := operator(call)) is not None:
        return found
    program = call.params.get("jaxpr", call.params.get("call_jaxpr"))
    return call.converter.run(program, call.values, call.graph)


@emits("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
def custom(call: Call) -> Emitted:
    program = next(
        call.params[key] for key in ("call_jaxpr", "fun_jaxpr", "jaxpr") if key in call.params
    )
    return call.converter.run(program, call.values, call.graph)


@emits("custom_linear_solve")
def custom_linear_solve(call: Call) -> Emitted:
    counts, programs = call.params["const_lengths"], call.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    total = start + counts.solve + counts.transpose_solve
    consts = call.values[start : start + counts.solve]
    return call.converter.run(programs.solve, [*consts, *call.values[total:]], call.graph)


@emits("platform_index")
def platform_index(call: Call) -> Value:
    # The branch for platforms that have none of their own: the others are for speed there.
    platforms = call.params["platforms"]
    default = next((i for i, names in enumerate(platforms) if names is None), 0)
    return Known(np.array(default, np.int32))


@emits("cond")
def cond(call: Call) -> Emitted:
    branches, given = call.params["branches"], call.values[1:]
    index = call.known(0)
    if index is not None:
        chosen = branches[min(max(int(index), 0), len(branches) - 1)]
        return call.converter.run(chosen, given, call.graph)
    return _if(call, call.loose(0).name, list(branches), 0, given)


def _if(call: Call, index: str, branches: list[Any], first: int, given: list[Value]) -> list[Value]:
    """Whether the index is that of the first branch, and the others inside ``else``."""
    graph = call.graph
    # JAX takes an index below or above the branches for the first or last one.
    one = graph.op("LessOrEqual", index, graph.constant(first, call.dtype(0)))
    if call.dtype(0).kind == "b":
        one = graph.op("Not", index)
    specs = _flat_specs(call.outs)

    def branch(programs: list[Any], at: int) -> Graph:
        inner = Graph(graph)
        if len(programs) == 1:
            found = call.converter.run(programs[0], given, inner)
        else:
            nested = Call(
                call.converter, inner, call.name, call.params, call.values, call.avals, call.outs
            )
            found = _if(nested, index, programs, at, given)
        for name, spec in zip(_flat_names(inner, found, call.outs), specs, strict=True):
            inner.add_output(name, "out", spec.shape, spec.dtype)
        return inner

    then, other = branch(branches[:1], first), branch(branches[1:], first + 1)
    names = graph.ops(
        "If",
        one,
        outputs=len(specs),
        shared=False,
        then_branch=then.proto("then"),
        else_branch=other.proto("else"),
    )
    return _paired(names, call.outs)


@emits("scan")
def scan(call: Call) -> Emitted:
    params, graph = call.params, call.graph
    program = params["jaxpr"]
    jaxpr = getattr(program, "jaxpr", program)
    # JAX 0.12 has no counts among the public parameters; a scanned array loses an axis inside.
    num_carry = sum(map(_same_rank, call.outs, jaxpr.outvars))
    num_scanned = len(call.avals) - sum(map(_same_rank, call.avals, jaxpr.invars))
    num_consts = len(call.values) - num_scanned - num_carry
    consts = call.values[:num_consts]
    carried = jaxpr.invars[num_consts : num_consts + num_carry]
    # What no pass changes is a constant of the loop.
    fixed = [old is new for old, new in zip(carried, jaxpr.outvars[:num_carry], strict=True)]
    start = call.values[num_consts : num_consts + num_carry]
    start_avals = [var.aval for var in carried]
    moving = [i for i in range(num_carry) if not fixed[i]]
    xs = call.values[num_consts + num_carry :]
    xs_avals = call.avals[num_consts + num_carry :]
    out_avals = call.outs[num_carry:]
    inner_avals = [var.aval for var in jaxpr.outvars[num_carry:]]

    inits = _flat_names(graph, [start[i] for i in moving], [start_avals[i] for i in moving])
    scanned = _flat_names(graph, xs, xs_avals)
    if not scanned:
        # A Scan needs something to scan.
        zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
        scanned = [graph.op("Range", zero, graph.size(params["length"]), one)]
    body = Graph(graph)
    carry = list(start)
    for i in moving:
        carry[i] = _input(body, "carry", start_avals[i])
    if xs:
        slices = [_input(body, "x", var.aval) for var in jaxpr.invars[num_consts + num_carry :]]
    else:
        body.add_input("i", (), np.int64)
        slices = []
    found = call.converter.run(program, [*consts, *carry, *slices], body)
    results = [found[i] for i in moving] + found[num_carry:]
    result_avals = [start_avals[i] for i in moving] + inner_avals
    for name, spec in zip(
        _flat_names(body, results, result_avals), _flat_specs(result_avals), strict=True
    ):
        body.add_output(name, "next", spec.shape, spec.dtype)
    reverse = int(params["reverse"])
    outputs = len(body.outputs) - len(inits)
    names = graph.ops(
        "Scan",
        *inits,
        *scanned,
        outputs=len(body.outputs),
        shared=False,
        body=body.proto("scan"),
        num_scan_inputs=len(scanned),
        scan_input_directions=[reverse] * len(scanned),
        scan_output_directions=[reverse] * outputs if outputs else None,
    )
    made = _paired(names, [*(start_avals[i] for i in moving), *out_avals])
    last = list(start)
    for i, value in zip(moving, made, strict=False):
        last[i] = value
    return [*last, *made[len(moving) :]]


def _same_rank(outside: Any, inside: Any) -> bool:
    return len(outside.shape) == len(inside.aval.shape)


@emits("while")
def while_(call: Call) -> Emitted:
    params, graph = call.params, call.graph
    test_consts = call.values[: params["cond_nconsts"]]
    rest = call.values[params["cond_nconsts"] :]
    body_consts, start = rest[: params["body_nconsts"]], rest[params["body_nconsts"] :]
    avals = call.outs

    flags = getattr(params["cond_jaxpr"], "jaxpr", params["cond_jaxpr"]).outvars[0].aval

    def asked(values: Sequence[Value], inside: Graph) -> tuple[str, str]:
        """Which rows go on, and whether any does: under vmap each row has its own loop."""
        (found,) = call.converter.run(params["cond_jaxpr"], [*test_consts, *values], inside)
        if not flags.shape:
            return "", loose(inside, found).name
        rows = full(inside, found, flags)
        axes = inside.ints(*range(len(flags.shape)))
        some = inside.op("ReduceMax", inside.cast(rows, np.int32), axes, keepdims=0)
        return rows, inside.cast(some, bool)

    body = Graph(graph)
    body.add_input("i", (), np.int64)
    body.add_input("go", (), bool)
    carry = [_input(body, "carry", aval) for aval in avals]
    found = call.converter.run(params["body_jaxpr"], [*body_consts, *carry], body)
    specs = _flat_specs(avals)
    names = _flat_names(body, found, avals)
    if flags.shape:
        rows, _ = asked(carry, body)
        olds = _flat_names(body, carry, avals)
        names = [
            _of_rows(call, body, rows, flags, spec, new, old)
            for spec, new, old in zip(specs, names, olds, strict=True)
        ]
        found = _paired(names, avals)
    body.add_output(asked(found, body)[1], "go", (), bool)
    for name, spec in zip(names, specs, strict=True):
        body.add_output(name, "next", spec.shape, spec.dtype)
    inits = _flat_names(graph, start, avals)
    _, go = asked(start, graph)
    made = graph.ops(
        "Loop", "", go, *inits, outputs=len(inits), shared=False, body=body.proto("while")
    )
    return _paired(made, avals)


def _of_rows(call: Call, graph: Graph, rows: str, flags: Any, spec: Any, new: str, old: str) -> str:
    """New values in the rows that go on."""
    shape = (*flags.shape, *(1,) * (len(spec.shape) - len(flags.shape)))
    chosen = graph.reshape(rows, flags.shape, shape)
    inner = Call(call.converter, graph, "select_n", {}, [], [], [spec])
    return where(inner, chosen, new, old)


def _input(graph: Graph, hint: str, aval: Any) -> Value:
    """A value that a loop's body is given."""
    # Runtimes hold the sizes that they are told against all passes: numbers alone are told.
    shape = tuple(aval.shape)
    parts = [
        Tensor(graph.add_input(hint, shape, spec.dtype), shape) for spec in _flat_specs([aval])
    ]
    return parts[0] if len(parts) == 1 else Pair(*parts)


def _flat_specs(avals: Sequence[Any]) -> list[Any]:
    return [spec for aval in avals for spec in [real_aval(aval)] * len(parts_of(aval))]


def _flat_names(graph: Graph, values: Sequence[Value], avals: Sequence[Any]) -> list[str]:
    """Names of values in full, two for a complex one."""
    names = []
    for value, aval in zip(values, avals, strict=True):
        for part in parts_of(aval, value):
            names.append(full(graph, part, real_aval(aval)))
    return names


def _paired(names: Sequence[str], avals: Sequence[Any]) -> list[Value]:
    """The other way."""
    left = iter(names)
    values: list[Value] = []
    for aval in avals:
        parts = [Tensor(next(left), tuple(aval.shape)) for _ in parts_of(aval)]
        values.append(parts[0] if len(parts) == 1 else Pair(*parts))
    return values


@emits("call_hi_primitive")
def expanded(call: Call) -> Emitted:
    """An operation that JAX 0.12 keeps whole, and that can say what it is made of."""
    operation = next((p for p in call.params.values() if hasattr(p, "expand")), None)
    if operation is None:
        raise call.refuse("an operation that does not say what it is made of")
    specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in call.avals]
    return call.converter.run(jax.make_jaxpr(operation.expand)(*specs), call.values, call.graph)
