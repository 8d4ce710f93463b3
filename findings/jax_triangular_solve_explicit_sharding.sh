#!/usr/bin/env bash
# The gradient of jax.lax.linalg.triangular_solve does not trace where the batch has an Explicit sharding.
#
# One would guess: as forward, each device solves its own part of the batch.
# Versions: jax and jaxlib 0.10.2, and 0.12.0.1 alike; numpy 2.4.6, Python 3.11, CPU with two devices.
# Seen: forward traces; grad raises ShardingTypeError, "select `which` must be scalar or have the same sharding as cases".
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 "$folder/venv/bin/python" - <<'PY'
import jax
from jax.sharding import AxisType, PartitionSpec

mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
jax.set_mesh(mesh)
sharding = jax.NamedSharding(mesh, PartitionSpec("batch"))
matrix, right = (
    jax.ShapeDtypeStruct((4, 5, columns), "float32", sharding=sharding) for columns in (5, 3)
)


def total(matrix, right):
    return jax.lax.linalg.triangular_solve(matrix, right, left_side=True, lower=True).sum()


print("forward", jax.eval_shape(total, matrix, right).shape)
try:
    jax.eval_shape(jax.grad(total), matrix, right)
except Exception as error:
    print(type(error).__name__, str(error).partition(",")[0])
    assert "select `which` must be scalar or have the same sharding" in str(error)
else:
    raise SystemExit("the gradient traces")
PY
