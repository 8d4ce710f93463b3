#!/usr/bin/env bash
# Gradients of convolutions are wrong where XLA divides them over devices: of a kernel in groups, and where an axis of the image is split.
#
# One would guess: jit computes the same numbers however its arguments are sharded.
# Versions: jax and jaxlib 0.10.2 (0.12.0.1 does the same), numpy 2.4.6, Python 3.11, four imitated devices of a CPU.
# Seen: the values agree. With the rows of an image of 4 channels split over one axis of a 2 x 2 mesh, the gradient of a kernel in 2 groups differs by as much as the gradient itself; with all channels in one group it is right. With the height split instead, and one group, the gradient of the kernel is as wrong. Nothing is reported. Some other splits end the process in the partitioner.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
rng = np.random.default_rng(0)


def off(groups, spec):
    """How far the value and the gradient of the kernel are from those of one device."""
    x = rng.normal(size=(4, 6, 6, 4))
    kernel = rng.normal(size=(3, 3, 4 // groups, 4))
    ct = rng.normal(size=(4, 6, 6, 4))

    def conv(kernel, x):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=names, feature_group_count=groups
        )

    def run(kernel, x, ct):
        y, back = jax.vjp(conv, kernel, x)
        return y, back(ct)[0]

    alone = jax.jit(run)(kernel, x, ct)
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*spec))
    given = jax.device_put((kernel, x, ct), (whole, split, split))
    many = jax.jit(run, out_shardings=(split, whole))(*given)
    return [float(abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(alone, many)]


print(jax.__version__)
for groups, spec, wrong in ((1, ("a",), False), (2, ("a",), True), (1, (None, "a"), True)):
    value, gradient = off(groups, spec)
    print(f"groups {groups}, split {spec}: value off by {value:.1e}, gradient by {gradient:.1e}")
    assert value < 1e-12
    assert (gradient > 1) is wrong
PY
