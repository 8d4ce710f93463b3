#!/usr/bin/env bash
# kfac-jax refuses a loss whose parameters are multiplied inside lax.scan, and takes the same product in jit as one without structure.
#
# One would guess: a parameter for which no pattern is found gets a generic block, as one does that is used in any other way; and jax.jit changes nothing.
# Versions: kfac-jax 0.0.8, jax and jaxlib 0.9.2, numpy 2.4.6, Python 3.11, CPU.
# Seen: x @ w has a Kronecker-factored block. In jax.jit or jax.checkpoint the same product has the diagonal alone. In lax.scan, "The following parameter indices were
#   not assigned a block"; with sin(w) in place of the product a diagonal again. register_generic(w) before the loop helps.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q kfac-jax==0.0.8 jax==0.9.2 jaxlib==0.9.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import jax
import jax.numpy as jnp
import kfac_jax


def block(function):
    def loss(params, batch):
        prediction = function(params["w"], batch)
        kfac_jax.register_squared_error_loss(prediction, batch)
        return jnp.mean(jnp.sum((prediction - batch) ** 2, axis=1))

    curvature = kfac_jax.BlockDiagonalCurvature(loss)
    try:
        curvature.finalize(({"w": jnp.eye(4)}, jnp.ones((8, 4))))
    except ValueError as error:
        return str(error)
    return type(curvature.blocks[0]).__name__


def looped(body):
    return lambda w, x: jax.lax.scan(lambda h, _: (body(w, h), None), x, None, length=3)[0]


def product(w, x):
    return x @ w


found = {
    "product": block(product),
    "in jit": block(jax.jit(product)),
    "in checkpoint": block(jax.checkpoint(product)),
    "sine in scan": block(looped(lambda w, x: x * jnp.sin(w).sum())),
    "product in scan": block(looped(product)),
    "registered": block(lambda w, x: looped(product)(kfac_jax.register_generic(w), x)),
}
for name, kind in found.items():
    print(f"{name}: {kind}")
assert found == {
    "product": "DenseTwoKroneckerFactored",
    "in jit": "NaiveDiagonal",
    "in checkpoint": "NaiveDiagonal",
    "sine in scan": "NaiveDiagonal",
    "product in scan": "The following parameter indices were not assigned a block: {0}.",
    "registered": "NaiveDiagonal",
}
PY
