#!/usr/bin/env bash
# The optimiser of onnxruntime removes an Expand from a size of 1 to one of 0, and the Reshape after it fails.
#
# One would guess: Expand broadcasts as NumPy does, and with the optimiser a graph computes what it computes without.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: (1, 12) -> Unsqueeze -> Expand to (1, 0, 12) -> Reshape to (0, 12) -> Concat with (1, 12) gives (1, 12) without the optimiser; with the basic one, which is on by default, the Reshape gets (1, 1, 12).
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

shapes = {"axis": [1], "wide": [1, 0, 12], "flat": [0, 12]}
graph = helper.make_graph(
    [
        helper.make_node("Unsqueeze", ["x", "axis"], ["rows"]),
        helper.make_node("Expand", ["rows", "wide"], ["none"]),
        helper.make_node("Reshape", ["none", "flat"], ["empty"], allowzero=1),
        helper.make_node("Concat", ["empty", "x"], ["y"], axis=0),
    ],
    "g",
    [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 12])],
    [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m", 12])],
    [numpy_helper.from_array(np.array(shape, "int64"), name) for name, shape in shapes.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.checker.check_model(model)


def run(level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": np.ones((1, 12), "float32")})[0]


assert run(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL).shape == (1, 12)
try:
    run(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
except Exception as error:
    assert "cannot be reshaped" in str(error)
    print("with the basic optimiser:", str(error).strip().splitlines()[-1][-90:])
else:
    raise SystemExit("the optimiser keeps it")
PY
