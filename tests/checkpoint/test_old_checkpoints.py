"""A checkpoint that an older version wrote is restored bit for bit.

``data/fixtures/checkpoint_v1`` was written with version 1 of the format, by commit eef51fd.
"""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoints import NAN_PAYLOAD, assert_exact

from jlayers import checkpoint

FIXTURES = pathlib.Path(__file__).parent.parent / "data" / "fixtures"
OLD = FIXTURES / "checkpoint_v1" / "step_00000068"


def tree():
    return {
        "params": {
            "dense": {
                "kernel": jnp.arange(24, dtype=jnp.float32).reshape(4, 6),
                "bias": jnp.zeros(6),
            }
        },
        "small": [
            jnp.arange(5, dtype=jnp.bfloat16),
            np.arange(6).astype(jnp.int4),
            np.float32([[1]]),
        ],
        "float8": [
            np.arange(16, dtype=np.uint8).view(jnp.float8_e4m3fn),
            np.arange(16, dtype=np.uint8).view(jnp.float8_e5m2),
            np.arange(1, 17, dtype=np.uint8).view(jnp.float8_e8m0fnu),
        ],
        "flags": np.array([True, False, True]),
        "complex": np.complex64([1 + 2j, -3j]),
        "payload": NAN_PAYLOAD,
        "wide": [
            np.float64([0.1, -0.0]),
            np.int64([-(2**63), 2**63 - 1]),
            np.uint64(2**64 - 1),
            np.complex128([1j]),
        ],
        "narrow": [np.int8([-128]), np.int16([-1]), np.uint16([65535]), np.float16([0.5])],
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2].T.copy(),
        "zero-d": jnp.float32(2.5),
        "none": jnp.zeros((0, 3)),
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2, impl="rbg"), 2),
        "step": 3,
        "rate": 0.25,
        "flag": True,
        "turn": 1 - 2j,
        "not finite": float("nan"),
        'ü with: "all" \\ kinds': np.int32(7),
    }


def test_version_1_is_restored_bit_for_bit():
    restored = checkpoint.read_checkpoint(OLD, tree())
    assert_exact(restored.tree, tree())
    assert (restored.step, restored.position) == (68, [2, 4])
    assert restored.metrics == {"loss": 0.5, "worst": float("inf")}
    assert np.isnan(restored.history[0].pop("loss"))
    assert restored.history == [{"step": 1}, [1, None]]
    assert restored.extra == {"note": [3, {"deep": True}]}
    told = checkpoint.read_manifest(OLD)
    assert (told.format, told.size, told.model) == ("safetensors", None, "serial(Dense(6))")
    assert checkpoint.CheckpointManager(OLD.parent).steps() == [68]
    found = checkpoint.read_arrays(OLD)
    assert list(found) == list(told.leaves)
    assert found.keys() == checkpoint.read_safetensors(OLD / "arrays.safetensors").keys()


def cut(data):
    return data[:-1]


def longer(data):
    return data + b"\0"


def flipped(data):
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize("damage", [cut, longer, flipped])
def test_damage_of_version_1_is_found(tmp_path, damage):
    """Its manifest does not have the size of the file."""
    path = tmp_path / OLD.name
    shutil.copytree(OLD, path)
    file = path / "arrays.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    text = "the checksum of" if damage is flipped else "arrays.safetensors is not a safetensors"
    with pytest.raises(checkpoint.CorruptCheckpointError, match=text):
        checkpoint.read_arrays(path)
