#!/usr/bin/env bash
# The weights in the files of silero-vad are of three trainings of one network.
#
# One would guess: the files of one release are one network in several formats; its page calls the safetensors file
#   "separate weights in safetensors format", and a name with "half" means half precision.
# Versions: silero-vad 6.2.3, onnx 1.23.2, onnxruntime 1.32.0, safetensors 0.8.0, numpy 2.4.6, Python 3.11, CPU.
# Seen: the five other ONNX files have the same first kernel; silero_vad_16k.safetensors has another one (values up to 14.5,
#   differences up to 4.0), and silero_vad_half.onnx a third one (differences up to 15), in float32. The basis of the Fourier
#   transform is the same in all. On the same sound two of the ONNX files give other probabilities of speech.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q --no-deps --target "$folder/files" silero-vad==6.2.3
cd "$folder/files/silero_vad/data"
"$folder/venv/bin/python" - <<'PY'
import pathlib

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

KERNEL, BASIS = (128, 129, 3), (258, 1, 256)


def tensors(part):
    """All constant tensors of a graph or a function, and of the graphs inside it."""
    yield from map(onnx.numpy_helper.to_array, getattr(part, "initializer", ()))
    for node in part.node:
        for given in node.attribute:
            if given.type == onnx.AttributeProto.TENSOR:
                yield onnx.numpy_helper.to_array(given.t)
            elif given.type == onnx.AttributeProto.GRAPH:
                yield from tensors(given.g)


found = {"silero_vad_16k.safetensors": list(load_file("silero_vad_16k.safetensors").values())}
for path in sorted(pathlib.Path().glob("*.onnx")):
    model = onnx.load(path)
    found[path.name] = [t for part in (model.graph, *model.functions) for t in tensors(part)]


def of_shape(name, shape):
    return next(tensor for tensor in found[name] if tensor.shape == shape)


kernels = {name: of_shape(name, KERNEL) for name in found}
groups = {}
for name, kernel in kernels.items():
    groups.setdefault(kernel.tobytes(), []).append(name)
    assert kernel.dtype == np.float32
    assert np.array_equal(of_shape(name, BASIS), of_shape("silero_vad.onnx", BASIS))
print(*groups.values(), sep="\n")
assert sorted(map(len, groups.values())) == [1, 1, 5]
for name in ("silero_vad_16k.safetensors", "silero_vad_half.onnx"):
    difference = np.abs(kernels[name] - kernels["silero_vad.onnx"]).max()
    print(name, "differs by up to", difference)
    assert difference > 4

time = np.arange(16000) / 16000
sound = np.sum([np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30)], 0) * (time > 0.3)
sound = np.pad(0.1 * sound.astype("float32"), (64, 0))
speech = {}
for name in ("silero_vad.onnx", "silero_vad_half.onnx"):
    session, state, speech[name] = onnxruntime.InferenceSession(name), np.zeros((2, 1, 128), "float32"), []
    rate = {"sr": np.array(16000)} if name == "silero_vad.onnx" else {}
    for i in range(0, 15872, 512):
        y, state = session.run(None, {"input": sound[None, i : i + 576], "state": state, **rate})
        speech[name].append(y.item())
one, other = map(np.array, speech.values())
print("probabilities differ by up to", np.abs(one - other).max())
assert np.abs(one - other).max() > 0.05
PY
