"""jlayers.models of images: equal to transformers with the same weights, by interop.match."""

import jax
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.conformance, pytest.mark.oracle("transformers")]
models = jl.models

# Of the largest number.
NEAR = {"float64": 1e-12, "float32": 1e-5}
IMAGE = (2, 32, 32, 3)
RESNET = {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [2, 1], "num_labels": 5}
# The last norm has 1e-12 in transformers, and 1e-6 in the authors' code.
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "layer_norm_eps": 1e-6}
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
    "efficientnet": (
        "EfficientNet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320, "num_labels": 5},
        models.EfficientNet(width=0.25, depth=0.5, classes=5),
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
            blocks=2,
            num_heads=2,
            mlp_features=24,
            epsilon=1e-12,
            classes=5,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_transformers(name):
    kind, options, model = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    theirs = randomised(getattr(transformers, f"{kind}ForImageClassification")(config))
    x = np.random.default_rng(0).standard_normal(IMAGE)
    with torch.no_grad():
        want = theirs(torch.tensor(np.moveaxis(x, -1, 1))).logits.numpy()
    with jax.enable_x64(True):
        agree(theirs, model, x, want, dtypes=dtypes_of(kind))


def dtypes_of(kind):
    """One of them for those that take longest to compile."""
    return ("float64",) if kind in ("MobileNetV2", "EfficientNet") else tuple(NEAR)


def randomised(module):
    """The module in float64 and eval mode, with random parameters and statistics."""
    generator = torch.Generator().manual_seed(0)
    module = module.double().eval()
    for name, value in module.state_dict().items():
        if value.dim():
            drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            # Scales near 1, so that what goes through many layers neither vanishes nor explodes.
            scale = value.dim() == 1 and name.endswith(("weight", "running_var", "parameter"))
            drawn = 1 + 0.2 * drawn if scale else drawn * value[0].numel() ** -0.5
            value.copy_(drawn.abs() if "var" in name else drawn)
    return module


def agree(theirs, model, x, want, rules=(), dtypes=tuple(NEAR)):
    """The model with the module's weights gives ``want``."""
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    plan = jl.interop.match(model, x, arrays, rules=rules)
    assert plan.complete, str(plan)
    params, state = plan.load()
    apply = jax.jit(model.apply)
    for dtype in dtypes:
        cast = jax.tree.map(lambda a: a.astype(dtype), (params, state, x))  # noqa: B023
        got = apply(*cast)[0]
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, 0, NEAR[dtype] * np.abs(want).max())
