#!/usr/bin/env bash
# A process of jax.distributed that raises an error does not end: it waits at its end for the others, which wait in a collective for it.
#
# One would guess: an uncaught exception ends its process, the connections close, and the others fail at once.
# Versions: jax and jaxlib 0.10.2, numpy 2.4.6, Python 3.11; two processes of one CPU device each on one machine, gloo.
# Seen: the traceback is printed, and the process stays in jax.distributed's shutdown, which waits for the other one as long as shutdown_timeout_seconds says (300 s by default, 8 s here). The other one waits in its all-gather all that time. Then JAX ends both, by SIGABRT. With os._exit after the traceback the other raises "Connection closed by peer" within a second.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/program.py" <<'PY'
import os
import sys
import time

import jax
from jax.experimental import multihost_utils

port, index, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index, shutdown_timeout_seconds=8)
multihost_utils.process_allgather(index)
print("raised or waiting at", time.time(), flush=True)
try:
    if index == 1:
        raise ValueError("a file of process 1 is missing")
    multihost_utils.process_allgather(index)
except Exception as error:
    print("error at", time.time(), type(error).__name__, str(error)[:200], flush=True)
    if how == "exit":
        os._exit(1)
    raise
PY
"$folder/venv/bin/python" - "$folder" <<'PY'
import pathlib
import re
import socket
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])


def run(how):
    """Seconds until each process ended, and its output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for index in range(2):
        with open(folder / f"{how}-{index}", "w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, folder / "program.py", str(port), str(index), how],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"},
                )
            )
    ended = [None, None]
    limit = time.time() + 120
    while None in ended and time.time() < limit:
        for index, process in enumerate(processes):
            if ended[index] is None and process.poll() is not None:
                ended[index] = time.time()
        time.sleep(0.05)
    for process in processes:
        process.kill()
    texts = [(folder / f"{how}-{index}").read_text() for index in range(2)]
    raised = float(re.search(r"raised or waiting at ([0-9.]+)", texts[1])[1])
    return [moment - raised for moment in ended], texts, [p.wait() for p in processes]


seconds, texts, statuses = run("raise")
print("raised:   ended after", [f"{s:.1f} s" for s in seconds], "with", statuses)
assert "ValueError" in texts[1]
assert min(seconds) > 6
seconds, texts, statuses = run("exit")
print("os._exit: ended after", [f"{s:.1f} s" for s in seconds], "with", statuses)
assert max(seconds) < 5
assert "peer" in texts[0]
PY
