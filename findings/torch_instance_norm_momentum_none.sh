#!/usr/bin/env bash
# torch.nn.InstanceNorm2d(momentum=None, track_running_stats=True) never updates its running statistics.
#
# One would guess: momentum=None is a cumulative average, as in BatchNorm2d, which has the same base class and arguments.
# Versions: torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11.
# Seen: after batches of mean 1, 2 and 6 BatchNorm2d has the running mean 3.0 and counts 3 batches; InstanceNorm2d has 0.0 and counts 0.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch


def running(kind):
    """The running mean, and the number of batches that the module counted."""
    module = kind(1, momentum=None, track_running_stats=True)
    for mean in (1.0, 2.0, 6.0):
        x = torch.tensor([-0.5, 0.5]).reshape(1, 1, 1, 2) + mean
        module(x.expand(2, 1, 1, 2))
    return module.running_mean.item(), module.num_batches_tracked.item()


batch, instance = running(torch.nn.BatchNorm2d), running(torch.nn.InstanceNorm2d)
print("BatchNorm2d", batch, "InstanceNorm2d", instance)
assert abs(batch[0] - 3) < 1e-5 and batch[1] == 3
assert instance == (0.0, 0)
PY
