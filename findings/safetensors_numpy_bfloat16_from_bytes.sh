#!/usr/bin/env bash
# safetensors.numpy reads bfloat16 from a file, and not from the bytes of the same file.
#
# One would guess: load(data) reads what load_file(path) reads, and what save(...) has written.
# Versions: safetensors 0.8.0 (0.5.3 and 0.7.0 are the same), numpy 2.4.6, ml_dtypes 0.5.4,
# Python 3.11.
# Seen: load_file gives an array of dtype bfloat16, load raises KeyError: 'BF16'.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.5.4 safetensors==0.8.0
"$folder/venv/bin/python" - "$folder/file" <<'PYTHON'
import pathlib
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import load, load_file, save_file

save_file({"x": np.arange(4, dtype=ml_dtypes.bfloat16)}, sys.argv[1])
print("load_file:", load_file(sys.argv[1])["x"].dtype)
try:
    load(pathlib.Path(sys.argv[1]).read_bytes())
except KeyError as error:
    print("load: KeyError", error)
    assert error.args == ("BF16",), "the behaviour has changed"
else:
    raise AssertionError("the behaviour has changed")
PYTHON
