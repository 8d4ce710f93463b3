#!/usr/bin/env bash
# kfac-jax 0.0.8 stops at its first step with jax 0.9.2 and later.
#
# One would guess: it runs with jax 0.10.2, as its requirement, jax>=0.4.27, allows.
# Versions: kfac-jax 0.0.8 with jax and jaxlib 0.9.1 and 0.10.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: two steps of a linear model run with jax 0.9.1. With 0.10.2 the first raises "ValueError: too many values to unpack (expected 2)" or, with fewer
#   parameters, "not enough values": Primitive.get_bind_params returned (functions, parameters), and now returns the parameters alone.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.9.1 0.10.2; do
    "$folder/venv/bin/pip" install -q kfac-jax==0.0.8 "jax==$version" "jaxlib==$version" numpy==2.4.6
    VERSION=$version JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import os

import jax
import jax.numpy as jnp
import kfac_jax


def loss(params, batch):
    x, y = batch
    prediction = x @ params["w"]
    kfac_jax.register_squared_error_loss(prediction, y)
    return jnp.mean(jnp.sum((prediction - y) ** 2, axis=1))


params, batch, key = {"w": jnp.zeros((3, 2))}, (jnp.eye(4, 3), jnp.ones((4, 2))), jax.random.key(0)
optimizer = kfac_jax.Optimizer(
    jax.value_and_grad(loss),
    l2_reg=0.0,
    use_adaptive_learning_rate=True,
    use_adaptive_momentum=True,
    use_adaptive_damping=True,
    initial_damping=1.0,
    num_burnin_steps=0,
    multi_device=False,
)
state, seen = optimizer.init(params, key, batch), []
try:
    for number in range(2):
        params, state, stats = optimizer.step(params, state, key, batch=batch, global_step_int=number)
        seen.append(float(stats["loss"]))
except ValueError as error:
    print(os.environ["VERSION"], "ValueError:", error)
    assert os.environ["VERSION"] == "0.10.2" and "values to unpack" in str(error)
else:
    print(os.environ["VERSION"], "losses", seen)
    assert os.environ["VERSION"] == "0.9.1" and seen[1] < seen[0]
PY
done
