"""jlayers.models: sizes as published, and what each of them can do, in small."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tables.tiers import named

import jlayers as jl
from jlayers import models


def image(size, channels=3):
    return jl.spec((2, size, size, channels))


def ids(*shape):
    return jl.spec(shape, jnp.int32)


# Rows in the table of each category of the advertisements of Criteo's competition at Kaggle.
CRITEO = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27),
    *(14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
# As published; of torchvision, where a paper gives millions. WaveNet's by hand: 30 blocks of 4,160
# and 8,448, 29 residuals of 1,056, a table of 8,192, two layers of 65,792.
PUBLISHED = {
    "ConvNeXt('tiny')": (image(224), 28_589_128),
    "ConvNeXt('small')": (image(224), 50_223_688),
    "ConvNeXt('base')": (image(224), 88_591_464),
    "ConvNeXt('large')": (image(224), 197_767_336),
    "DCGANDiscriminator()": (image(64), 2_765_568),
    "DCGANGenerator()": (jl.spec((2, 100)), 3_576_704),
    "DLRM(CRITEO)": ({"dense": jl.spec((2, 13)), "ids": ids(2, 26)}, 540_677_217),
    "EfficientNet('b0')": (image(224), 5_288_548),
    "EfficientNet('b1')": (image(240), 7_794_184),
    "EfficientNet('b2')": (image(260), 9_109_994),
    "EfficientNet('b3')": (image(300), 12_233_232),
    "EfficientNet('b4')": (image(380), 19_341_616),
    "EfficientNet('b5')": (image(456), 30_389_784),
    "EfficientNet('b6')": (image(528), 43_040_704),
    "EfficientNet('b7')": (image(600), 66_347_960),
    "MobileNetV2()": (image(224), 3_504_872),
    "ResNet(18)": (image(224), 11_689_512),
    "ResNet(34)": (image(224), 21_797_672),
    "ResNet(50)": (image(224), 25_557_032),
    "ResNet(101)": (image(224), 44_549_160),
    "ResNet(152)": (image(224), 60_192_808),
    "TCN(classes=10)": (jl.spec((2, 784, 1)), 66_910),
    "UNet()": (image(572, 1), 31_030_658),
    "VAE()": (jl.spec((2, 784)), 652_824),
    "ViT('base')": (image(224), 86_567_656),
    "ViT('base', patch_size=32)": (image(224), 88_224_232),
    "ViT('large')": (image(224), 304_326_632),
    "ViT('large', patch_size=32)": (image(224), 306_535_400),
    "WaveNet()": (ids(2, 100), 548_640),
}
FAST = {
    *("ConvNeXt('tiny')", "DCGANDiscriminator()", "DCGANGenerator()", "DLRM(CRITEO)"),
    *("EfficientNet('b0')", "MobileNetV2()", "ResNet(50)", "TCN(classes=10)"),
    *("UNet()", "VAE()", "ViT('base')", "WaveNet()"),
}


@pytest.mark.parametrize("text", named(PUBLISHED, *FAST))
def test_parameters_as_published(text):
    x, published = PUBLISHED[text]
    model = eval(text, {**vars(models), "CRITEO": CRITEO})
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == published


SMALL = {
    "convnext": (models.ConvNeXt(blocks=(1, 1), widths=(4, 8), classes=3), image(16)),
    "dcgan discriminator": (models.DCGANDiscriminator(8, width=4), image(8)),
    "dcgan generator": (models.DCGANGenerator(8, width=4), jl.spec((2, 5))),
    "dlrm": (
        models.DLRM((5, 9), bottom=(4,), top=(4, 1), bags=True),
        {"dense": jl.spec((2, 3)), "ids": ids(2, 2, 3)},
    ),
    "efficientnet": (models.EfficientNet(width=0.2, depth=0.1, classes=3), image(32)),
    "mobilenet": (
        models.MobileNetV2(0.2, stages=((1, 8, 1, 1), (2, 8, 2, 2)), padding="BOTH", classes=3),
        image(16),
    ),
    "resnet": (models.ResNet((1, 2), version="D", width=4, classes=None), image(32)),
    "tcn": (models.TCN((4, 4), kernel_size=3, classes=3), jl.spec((2, 6, 2))),
    "unet": (
        models.UNet(2, width=4, depth=1, padding="SAME", batch_norm=True, dropout_rate=0.1),
        image(8),
    ),
    "vae": (
        models.VAE(encoder=jl.Dense(5), decoder=jl.Dense(6), latent=3, beta=1.0),
        jl.spec((2, 6)),
    ),
    "vit": (
        models.ViT(
            patch_size=4, features=8, num_heads=2, num_layers=2, dropout_rate=0.1, classes=3
        ),
        image(8),
    ),
    "wavenet": (
        models.WaveNet(7, features=4, skip_features=4, dilations=(1, 2)),
        ids(2, 6),
    ),
}


def drawn(x):
    rng = np.random.default_rng(0)

    def leaf(spec):
        if jnp.issubdtype(spec.dtype, jnp.integer):
            return rng.integers(0, 5, spec.shape, spec.dtype)
        return rng.standard_normal(spec.shape).astype(spec.dtype)

    return jax.tree.map(leaf, x)


@pytest.mark.parametrize("name", SMALL)
def test_the_repr_builds_it(name):
    model, _ = SMALL[name]
    again = eval(repr(model), {**vars(models), **{each: getattr(jl, each) for each in jl.__all__}})
    assert repr(again) == repr(model)
    assert [path for path, _ in jl.walk(again)] == [path for path, _ in jl.walk(model)]


# Much of EfficientNet and ConvNeXt is in the others too, and they take longest.
@pytest.mark.parametrize("name", named(SMALL, *set(SMALL) - {"efficientnet"}))
def test_it_trains(name):
    model, x = SMALL[name]
    with_loss = jl.with_losses(model)
    params, state = model.init(jax.random.key(0), x)

    def loss(params, state, x, key):
        (y, added), state = with_loss.apply(params, state, x, key=key, train=True)
        return added + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y)), state

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients, new = step(params, state, drawn(x), jax.random.key(1))
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, params)
    for path, gradient in jl.flatten(gradients).items():
        assert np.all(np.isfinite(gradient)), path
    assert jax.tree.structure(new) == jax.tree.structure(state)
    changed = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (new, state)), strict=True)]
    assert all(changed)


@pytest.mark.parametrize("name", named(SMALL, *set(SMALL) - {"convnext", "efficientnet"}))
def test_it_is_exported_for_any_batch(name):
    model, x = SMALL[name]
    params, state = model.init(jax.random.key(0), x)
    (batch,) = export.symbolic_shape("batch")
    many = jax.tree.map(lambda s: jax.ShapeDtypeStruct((batch, *s.shape[1:]), s.dtype), x)
    apply = jax.jit(lambda x: model.apply(params, state, x)[0])
    exported = export.export(apply)(many)
    # One program of both, which compiles sooner than two.
    got, want = jax.jit(lambda x: (exported.call(x), apply(x)))(drawn(x))
    for have, wanted in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(have, wanted, 1e-5, 1e-5)


def torchvision_resnet(width, blocks, classes):
    """A state_dict as torchvision and timm write it: shortcuts behind the other convolutions."""
    rng, arrays = np.random.default_rng(0), {}

    def draw(name, *shape):
        arrays[name] = rng.standard_normal(shape).astype("float32")

    def conv_norm(conv, norm, after, before, size):
        draw(f"{conv}.weight", after, before, size, size)
        for name in ("weight", "bias", "running_mean", "running_var"):
            draw(f"{norm}.{name}", after)
        arrays[f"{norm}.num_batches_tracked"] = np.array(7)

    conv_norm("conv1", "bn1", width, 3, 7)
    before = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for i in range(count):
            block = f"layer{stage + 1}.{i}"
            convs = (inner, before, 1), (inner, inner, 3), (4 * inner, inner, 1)
            for j, sizes in enumerate(convs, 1):
                conv_norm(f"{block}.conv{j}", f"{block}.bn{j}", *sizes)
            if not i:
                shortcut = f"{block}.downsample"
                conv_norm(f"{shortcut}.0", f"{shortcut}.1", 4 * inner, before, 1)
            before = 4 * inner
    draw("fc.weight", classes, before)
    draw("fc.bias", classes)
    return arrays


def test_resnets_of_torchvision_need_no_rules():
    arrays = torchvision_resnet(8, (2, 1), 5)
    plan = jl.interop.match(models.ResNet((2, 1), width=8, classes=5), image(32), arrays)
    found = {pair.path: pair.names[0].rpartition(".")[0] for pair in plan.matched}
    assert plan.complete
    assert found["stem/norm"] == "bn1"
    for i, j in ((0, 0), (0, 1), (1, 0)):
        ours, theirs = f"stage_{i}/block_{j}", f"layer{i + 1}.{j}"
        for k in range(3):
            assert found[f"{ours}/body/conv_{k}/conv"] == f"{theirs}.conv{k + 1}"
            assert found[f"{ours}/body/conv_{k}/norm"] == f"{theirs}.bn{k + 1}"
        if not j:
            assert found[f"{ours}/shortcut/conv"] == f"{theirs}.downsample.0"
            assert found[f"{ours}/shortcut/norm"] == f"{theirs}.downsample.1"


def test_the_vae_draws_from_its_posterior():
    model = models.VAE(encoder=lambda x: x, decoder=lambda z: z, latent=2)
    params, state = model.init(jax.random.key(0), jl.spec((1, 3)))
    x = jnp.ones((20_000, 3))
    (z, mean, log_var), _ = model.apply(params, state, x, key=jax.random.key(1), train=True)
    noise = np.asarray((z - mean) / jnp.exp(log_var / 2))
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=0.03)
    (z, mean, _), _ = model.apply(params, state, x)
    np.testing.assert_array_equal(z, mean)
    with pytest.raises(jl.LayerError, match=r"VAE[\s\S]*needs a key"):
        model.apply(params, state, x, train=True)


CAUSAL = ["wavenet", "tcn"]


@pytest.mark.parametrize("name", named(CAUSAL, "wavenet"))
def test_causal_models_stream(name):
    model, x = SMALL[name]
    params, state = model.init(jax.random.key(0), x)
    start, step = jl.stream(model)

    @jax.jit
    def both(x):
        carry, parts = start(params, state, x[:, :1]), []
        for block in (x[:, :1], x[:, 1:3], x[:, 3:]):
            y, carry = step(params, state, carry, block)
            parts.append(y)
        return jnp.concatenate(parts, 1), model.apply(params, state, x)[0]

    np.testing.assert_allclose(*both(drawn(x)), 1e-5, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("name", ["dlrm", "vae", *CAUSAL])
def test_the_laws_of_layers(name):
    model, x = SMALL[name]
    jl.testing.check_layer(model, x)
    if name in CAUSAL:
        jl.testing.check_sequence(model, x)


WRONG = {
    "unknown depth 20": (lambda: models.ResNet(20), "18, 34, 50, 101, 152"),
    "unknown version '2'": (lambda: models.ResNet(50, version="2"), "'1', '1.5', 'D'"),
    "unknown size 'giant'": (lambda: models.ViT("giant"), "'tiny', 'small', 'base', 'large'"),
    "unknown padding 'FULL'": (lambda: models.UNet(padding="FULL"), "'VALID', 'SAME'"),
    "blocks and widths are of different numbers of stages": (
        lambda: models.ConvNeXt(blocks=(1, 2)),
        "4 and 2|2 and 4",
    ),
    "size must be 8 or a higher power of 2, got 48": (lambda: models.DCGANGenerator(48), "got 48"),
    "level 1 cannot be halved": (
        lambda: jl.out_spec(models.UNet(), image(570, 1)),
        r"even sizes[\s\S]*279",
    ),
    "takes a dict of two arrays": (lambda: jl.out_spec(models.DLRM((3,)), ids(2, 3)), "dense, ids"),
    "has 1 tables": (
        lambda: jl.out_spec(models.DLRM((3,)), {"dense": jl.spec((2, 3)), "ids": ids(2, 3)}),
        r"ids \(batch, 1\)",
    ),
    "has 2 tables, and takes ids of each": (
        lambda: jl.out_spec(
            models.DLRM((3, 3), bags=True), {"dense": jl.spec((2, 3)), "ids": ids(2, 2)}
        ),
        r"dense \(batch, numbers\), ids \(batch, 2, bag\)",
    ),
    "depth must be a list of positive ints, got ()": (lambda: models.ResNet(()), "ResNet"),
    "blocks[1] must be a positive int, got 0": (lambda: models.ConvNeXt(blocks=(1, 0)), "ConvNeXt"),
    "dilations must be a list of positive ints, got 3": (
        lambda: models.WaveNet(dilations=3),
        "WaveNet",
    ),
    "stages must be a list of tuples of 4 positive ints, got ((1, 2, 3),)": (
        lambda: models.MobileNetV2(stages=((1, 2, 3),)),
        "MobileNetV2",
    ),
    "merges arrays of one shape": (
        lambda: jl.out_spec(models.TCN((4,), project=False), jl.spec((2, 6, 1))),
        r"shortcut float32\[2, 6, 1\], body float32\[2, 6, 4\]",
    ),
    "takes images of size 8": (
        lambda: jl.out_spec(models.DCGANDiscriminator(8), image(9)),
        r"\(batch, 8, 8, channels\)",
    ),
    "takes an array of rank 2, got rank 4": (
        lambda: jl.out_spec(models.DCGANGenerator(8), image(1)),
        r"\(batch, noise\)",
    ),
}


@pytest.mark.parametrize("problem", WRONG)
def test_errors(problem):
    build, more = WRONG[problem]
    with pytest.raises(jl.LayerError, match=more) as caught:
        build()
    assert problem in str(caught.value)
