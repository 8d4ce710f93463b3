"""LSTM, GRU and SimpleRNN as the operators of these names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ....layers.recurrent.gru import GRU
from ....layers.recurrent.lstm import LSTM
from ....layers.recurrent.simple_rnn import SimpleRNN
from ..call import Emitted, full
from .marking import LayerCall, Operand, writes
from .weights import Weight, join

# Of the functions that operators have by name, those with one form alone.
_ACTIVATIONS = {
    jnp.tanh: "Tanh",
    jax.nn.sigmoid: "Sigmoid",
    jax.nn.relu: "Relu",
    jax.nn.softplus: "Softplus",
    jax.nn.soft_sign: "Softsign",
}
# Our gates by their places in ONNX: i, o, f, g of ours i, f, g, o; z, r, n of ours r, z, n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
# Whatever of these is on, has no form in ONNX.
_WITHOUT = ("layer_norm", "projection", "cell_clip", "coupled", "zoneout")


@writes(LSTM)
def lstm(layer: LayerCall) -> Emitted | None:
    names = ("recurrent_activation", "activation", "activation")
    return _recurrent(layer, "LSTM", names)


@writes(GRU)
def gru(layer: LayerCall) -> Emitted | None:
    reset = int(layer.options["reset_after"])
    names = ("recurrent_activation", "activation")
    return _recurrent(layer, "GRU", names, linear_before_reset=reset)


@writes(SimpleRNN)
def simple_rnn(layer: LayerCall) -> Emitted | None:
    return _recurrent(layer, "RNN", ("activation",))


def _recurrent(
    layer: LayerCall, kind: str, activations: tuple[str, ...], **attributes: Any
) -> Emitted | None:
    options, x, call = layer.options, layer.x, layer.call
    functions = [_ACTIVATIONS.get(options[name]) for name in activations]
    if not isinstance(x, Operand) or None in functions or x.aval.dtype != np.float32:
        return None
    if any(options.get(name) for name in _WITHOUT):
        return None
    params = {
        name: Weight.of(call, operand, x.aval.dtype) for name, operand in layer.params.items()
    }
    hidden = int(options["features"])
    inputs, graph = _inputs(layer, params, kind, hidden), call.graph
    steps = graph.transpose(full(graph, x.value, x.aval), [1, 0, 2])
    outputs = graph.ops(
        kind,
        steps,
        *inputs,
        outputs=2,
        hidden_size=hidden,
        direction="reverse" if options["reverse"] else "forward",
        activations=functions,
        clip=options.get("clip"),
        **attributes,
    )
    if not options["return_sequences"]:
        return call.op("Squeeze", outputs[1], graph.ints(0))
    return graph.transpose(call.op("Squeeze", outputs[0], graph.ints(1)), [1, 0, 2])


def _inputs(layer: LayerCall, params: Mapping[str, Weight], kind: str, hidden: int) -> list[str]:
    """W, R, B, sequence_lens, initial_h, initial_c and P, without those at the end that are not."""
    gates, call = _GATES[kind], layer.call
    dtype = layer.x.aval.dtype

    def ordered(weight: Weight) -> Weight:
        parts = weight.split(len(weight.shape) - 1, len(gates))
        joined = join([parts[gate] for gate in gates], len(weight.shape) - 1)
        return joined.transpose(1, 0) if len(weight.shape) == 2 else joined

    def one(weight: Weight) -> str:
        return weight.reshape(1, *weight.shape).name

    found = [one(ordered(params["kernel"])), one(ordered(params["recurrent_kernel"]))]
    bias = ""
    if "bias" in params:
        zeros = Weight.filled(call, (hidden * len(gates),), 0, dtype)
        if "recurrent_bias" in params:
            # Of the candidate alone, which comes last.
            rest = Weight.filled(call, (hidden * (len(gates) - 1),), 0, dtype)
            zeros = join([rest, params["recurrent_bias"]], 0)
        bias = one(join([ordered(params["bias"]), zeros], 0))
    found += [bias, ""]
    for name in ("initial_h", "initial_c"):
        found.append(_initial(layer, params[name]) if name in params else "")
    if "peephole" in params:
        i, f, o = params["peephole"].split(0, 3)
        found.append(one(join([i, o, f], 0)))
    while found and not found[-1]:
        found.pop()
    return found


def _initial(layer: LayerCall, weight: Weight) -> str:
    """One row for each row of the batch."""
    batch = layer.x.shape[0]
    graph = layer.call.graph
    row = weight.reshape(1, 1, *weight.shape).name
    return graph.expand(row, [1, batch, *weight.shape])
