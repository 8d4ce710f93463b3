"""Small models of jlayers.models as ONNX graphs, in onnxruntime what they are in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.onnx_runs import agree, kinds
from tables.tiers import named

import jlayers as jl
from jlayers import models

IMAGE = jl.spec((2, 16, 16, 3))
IDS = jl.spec((2, 6), jnp.int32)
SMALL = {"num_embeddings": 11, "features": 8, "num_layers": 2}
HEADS = SMALL | {"num_heads": 2}
WIDE = HEADS | {"hidden_dim": 12}
MODELS = {
    "bert": (models.BERT(**HEADS), IDS),
    "gpt": (models.GPT2(**HEADS), IDS),
    "llama": (models.Llama(**WIDE, num_kv_heads=1, tied=True), IDS),
    "lstm": (models.LSTMLM(**SMALL), IDS),
    "mamba": (models.MambaLM(**SMALL, state_size=3), IDS),
    "mixtral": (models.Llama(**WIDE, num_experts=3, window=4), IDS),
    "t5": (models.T5(**WIDE, head_dim=3), (IDS, jl.spec((2, 9), jnp.int32))),
    "whisper": (models.Whisper(**HEADS), (IDS, jl.spec((2, 12, 80)))),
    "convnext": (models.ConvNeXt(blocks=(1, 1), widths=(4, 8), classes=3), IMAGE),
    "dcgan discriminator": (models.DCGANDiscriminator(8, width=4), jl.spec((2, 8, 8, 3))),
    "dcgan generator": (models.DCGANGenerator(8, width=4), jl.spec((2, 5))),
    "dlrm": (
        models.DLRM((5, 9), bottom=(4,), top=(4, 1), bags=True),
        {"dense": jl.spec((2, 3)), "ids": jl.spec((2, 2, 3), jnp.int32)},
    ),
    "efficientnet": (models.EfficientNet(width=0.2, depth=0.1, classes=3), jl.spec((2, 32, 32, 3))),
    "mobilenet": (models.MobileNetV2(0.2, stages=((1, 8, 1, 1), (2, 8, 2, 2)), classes=3), IMAGE),
    "resnet": (models.ResNet((1, 2), version="D", width=4), jl.spec((2, 32, 32, 3))),
    "tcn": (models.TCN((3, 3), kernel_size=2, classes=2), jl.spec((2, 6, 2))),
    "unet": (models.UNet(2, width=4, depth=1, padding="SAME", batch_norm=True), IMAGE),
    "vae": (models.VAE(encoder=jl.Dense(5), decoder=jl.Dense(6), latent=3), jl.spec((2, 6))),
    "vit": (models.ViT(patch_size=4, features=8, num_heads=2, num_layers=2, classes=3), IMAGE),
    "wavenet": (models.WaveNet(7, features=4, dilations=(1, 2)), jl.spec((2, 6), jnp.int32)),
}


def drawn(spec, rng):
    if jnp.issubdtype(spec.dtype, jnp.integer):
        return rng.integers(0, 5, spec.shape, spec.dtype)
    return rng.standard_normal(spec.shape).astype(spec.dtype)


@pytest.mark.parametrize("name", named(MODELS, "dlrm", "gpt", "tcn", "unet", "vit"))
def test_a_model_in_onnxruntime(name, key):
    model, spec = MODELS[name]
    params, state = model.init(key, spec)
    x = jax.tree.map(lambda leaf: drawn(leaf, np.random.default_rng(0)), spec)
    found = kinds(agree(model, params, state, spec, x))
    # One before the first convolution, and one behind the last where there is an image.
    if name in ("resnet", "unet", "mobilenet"):
        assert found.count("Transpose") <= 3
