"""jlayers.models of images: equal to transformers with the same weights, by interop.match."""

import jax
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from oracles.torch_models import NEAR, agree, channels_first, randomised  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("transformers")]
models = jl.models

IMAGE = (2, 32, 32, 3)
RESNET = {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [2, 1], "num_labels": 5}
# The last norm has 1e-12 in transformers, and 1e-6 in the authors' code.
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "layer_norm_eps": 1e-6}
EFFICIENTNET = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.5,
    "hidden_dim": 320,
    "num_labels": 5,
}
CASES = {
    "resnet, bottlenecks": ("ResNet", RESNET, models.ResNet((2, 1), width=8, classes=5)),
    "resnet, version 1": (
        "ResNet",
        RESNET | {"downsample_in_bottleneck": True},
        models.ResNet((2, 1), width=8, version="1", classes=5),
    ),
    "resnet, two convolutions a block": (
        "ResNet",
        RESNET | {"hidden_sizes": [8, 16], "layer_type": "basic"},
        models.ResNet((2, 1), bottleneck=False, width=8, classes=5),
    ),
    "convnext": (
        "ConvNext",
        CONVNEXT | {"num_labels": 5},
        models.ConvNeXt(blocks=(1, 2), widths=(8, 16), classes=5),
    ),
    "mobilenet": (
        "MobileNetV2",
        {"depth_multiplier": 0.35, "num_labels": 5},
        models.MobileNetV2(0.35, classes=5),
    ),
    "mobilenet, padded on both sides": (
        "MobileNetV2",
        {"depth_multiplier": 0.35, "tf_padding": False, "num_labels": 5},
        models.MobileNetV2(0.35, padding="BOTH", classes=5),
    ),
    "efficientnet": (
        "EfficientNet",
        EFFICIENTNET,
        models.EfficientNet(width=0.25, depth=0.5, classes=5),
    ),
    "efficientnet, an odd stage": (  # of 3 pixels before the last stride
        "EfficientNet",
        EFFICIENTNET | {"depthwise_padding": [7]},
        models.EfficientNet(width=0.25, depth=0.5, classes=5),
        (1, 48, 48, 3),
    ),
    "resnet, odd sizes and one channel": (
        "ResNet",
        RESNET | {"num_channels": 1},
        models.ResNet((2, 1), width=8, classes=5),
        (2, 33, 47, 1),
    ),
    "vit": (
        "ViT",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": 32,
            "num_labels": 5,
        },
        models.ViT(
            patch_size=16,
            features=16,
            num_heads=2,
            num_layers=2,
            hidden_dim=24,
            epsilon=1e-12,
            classes=5,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_transformers(name):
    kind, options, model, *shape = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    theirs = randomised(getattr(transformers, f"{kind}ForImageClassification")(config))
    x = np.random.default_rng(0).standard_normal(*shape or [IMAGE])
    with torch.no_grad():
        want = theirs(channels_first(x)).logits.numpy()
    # One of them for those that take longest to compile.
    dtypes = ("float64",) if kind in ("MobileNetV2", "EfficientNet") else tuple(NEAR)
    with jax.enable_x64(True):
        agree(theirs, model, x, want, dtypes=dtypes)
