"""jlayers.models that transformers has not: equal to a few lines of PyTorch, by interop.match."""

import jax
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")

from oracles.torch_models import agree, channels_first, randomised  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
nn, models = torch.nn, jl.models
RANDOM = np.random.default_rng(0)


class ResNetD(nn.Module):
    """As in timm: means before the shortcut's convolution, where there is a stride."""

    def __init__(self):
        super().__init__()
        convs = conv(3, 2, 3, 2), conv(2, 2, 3), conv(2, 4, 3)
        self.stem = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in convs))
        self.blocks = nn.ModuleList([self.block(4, 4, 1), self.block(16, 8, 2)])
        self.fc = nn.Linear(32, 5)

    def block(self, before, inner, stride):
        body = [conv(before, inner, 1), nn.ReLU(), conv(inner, inner, 3, stride), nn.ReLU()]
        shortcut = [nn.AvgPool2d(2, ceil_mode=True)] if stride > 1 else []
        parts = {"body": nn.Sequential(*body, conv(inner, 4 * inner, 1))}
        parts["downsample"] = nn.Sequential(*shortcut, conv(before, 4 * inner, 1))
        return nn.ModuleDict(parts)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.stem(x), 3, 2, 1)
        for block in self.blocks:
            x = (block["body"](x) + block["downsample"](x)).relu()
        return self.fc(x.mean((2, 3)))


def conv(before, after, size, stride=1):
    layer = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after))


class UNet(nn.Module):
    """Figure 1, with two levels of 4 and 8 channels."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([self.twice(1, 4), self.twice(4, 8)])
        self.bottom = self.twice(8, 16)
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)])
        self.merge = nn.ModuleList([self.twice(16, 8), self.twice(8, 4)])
        self.head = nn.Conv2d(4, 3, 1)

    def twice(self, before, after):
        convs = nn.Conv2d(before, after, 3), nn.Conv2d(after, after, 3)
        return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())

    def forward(self, x):
        beside = []
        for down in self.down:
            beside.append(down(x))
            x = nn.functional.max_pool2d(beside[-1], 2)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x, wide = up(x), beside.pop()
            edge = (wide.shape[2] - x.shape[2]) // 2
            x = merge(torch.cat([wide[:, :, edge:-edge, edge:-edge], x], 1))
        return self.head(x)


class WaveNet(nn.Module):
    """Equation 2 and Figure 4, with dilations 1, 2 and 4."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.gated = nn.ModuleList([nn.Conv1d(4, 8, 2, dilation=d) for d in (1, 2, 4)])
        self.residual = nn.ModuleList([nn.Conv1d(4, 4, 1) for _ in range(2)])
        self.skip = nn.ModuleList([nn.Conv1d(4, 6, 1) for _ in range(3)])
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(6, 6, 1), nn.ReLU(), nn.Conv1d(6, 7, 1))

    def forward(self, ids):
        x, total = self.embed(ids).movedim(-1, 1), 0
        for i, gated in enumerate(self.gated):
            y = gated(nn.functional.pad(x, (2**i, 0)))
            z = torch.tanh(y[:, :4]) * torch.sigmoid(y[:, 4:])
            total = total + self.skip[i](z)
            x = x + self.residual[i](z) if i < 2 else x
        return self.out(total).movedim(1, -1)


class Block(nn.Module):
    """The block of the authors of the TCN."""

    def __init__(self, before, after, dilation):
        super().__init__()
        norm, self.pad = torch.nn.utils.parametrizations.weight_norm, (2 * dilation, 0)
        self.conv1 = norm(nn.Conv1d(before, after, 3, dilation=dilation))
        self.conv2 = norm(nn.Conv1d(after, after, 3, dilation=dilation))
        self.downsample = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x):
        y = self.conv1(nn.functional.pad(x, self.pad)).relu()
        y = self.conv2(nn.functional.pad(y, self.pad)).relu()
        return (y + self.downsample(x)).relu()


class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(2, 4, 1), Block(4, 4, 2), Block(4, 5, 4))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.blocks(x).movedim(1, -1))


def generator():
    up = {"kernel_size": 4, "bias": False}
    twice = up | {"stride": 2, "padding": 1}
    return nn.Sequential(
        nn.Unflatten(1, (-1, 1, 1)),
        *(nn.ConvTranspose2d(5, 8, **up), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 4, **twice), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 3, **twice), nn.Tanh()),
    )


def discriminator():
    half = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}
    return nn.Sequential(
        *(nn.Conv2d(3, 4, **half), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(4, 8, **half), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(8, 1, 4, bias=False), nn.Flatten(0)),
    )


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 5)
        self.mean, self.log_var = nn.Linear(5, 2), nn.Linear(5, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 6))

    def forward(self, x):
        h = self.encoder(x).relu()
        mean = self.mean(h)
        return self.decoder(mean), mean, self.log_var(h)


class DLRM(nn.Module):
    """As in the authors' code: pairs below the diagonal, row by row."""

    def __init__(self, bags):
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU())
        table = (lambda n: nn.EmbeddingBag(n, 4, mode="sum")) if bags else nn.Embedding
        self.tables = nn.ModuleList([table(n, *([] if bags else [4])) for n in (5, 9)])
        self.top = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, dense, ids):
        x = self.bottom(dense)
        rows = [x, *(table(ids[:, i]) for i, table in enumerate(self.tables))]
        pairs = [(rows[i] * rows[j]).sum(-1, keepdim=True) for i in range(3) for j in range(i)]
        return self.top(torch.cat([x, *pairs], -1))


def ids(count, *shape):
    return RANDOM.integers(0, count, shape)


CLICKS = {"dense": RANDOM.standard_normal((5, 3))}
CASES = {
    "resnet, version D": (
        ResNetD,
        models.ResNet((1, 1), version="D", width=4, classes=5),
        RANDOM.standard_normal((2, 26, 26, 3)),  # 7 pixels before the last stride
    ),
    "unet": (UNet, models.UNet(3, width=4, depth=2), RANDOM.standard_normal((1, 44, 44, 1))),
    "wavenet": (
        WaveNet,
        models.WaveNet(7, features=4, skip_features=6, dilations=(1, 2, 4)),
        ids(7, 2, 12),
    ),
    "tcn": (
        TCN,
        models.TCN((4, 4, 5), kernel_size=3, classes=3),
        RANDOM.standard_normal((2, 16, 2)),
    ),
    "dcgan, generator": (
        generator,
        models.DCGANGenerator(16, width=4),
        RANDOM.standard_normal((3, 5)),
    ),
    "dcgan, discriminator": (
        discriminator,
        models.DCGANDiscriminator(16, width=4),
        RANDOM.standard_normal((3, 16, 16, 3)),
    ),
    "vae": (VAE, models.VAE(6, latent=2, hidden=5), RANDOM.standard_normal((3, 6))),
    "dlrm": (
        lambda: DLRM(bags=False),
        models.DLRM((5, 9), bottom=(6, 4), top=(6, 1)),
        CLICKS | {"ids": ids(5, 5, 2)},
    ),
    "dlrm, several ids": (
        lambda: DLRM(bags=True),
        models.DLRM((5, 9), bottom=(6, 4), top=(6, 1), bags=True),
        CLICKS | {"ids": ids(5, 5, 2, 3)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_torch(name):
    make, model, x = CASES[name]
    module = randomised(make())
    given = x.values() if isinstance(x, dict) else [x]
    with torch.no_grad():
        want = module(*map(channels_first, given))
    want = jax.tree.map(lambda y: y.movedim(1, -1).numpy() if y.dim() == 4 else y.numpy(), want)
    with jax.enable_x64(True):
        agree(module, model, x, want)


def test_the_loss_of_the_vae():
    mean, log_var = RANDOM.standard_normal((2, 4, 3))
    model = models.VAE(encoder=lambda x: x, decoder=lambda z: z, latent=3, beta=0.5)
    with jax.enable_x64(True):
        kernels = np.eye(6)[:, :3], np.eye(6)[:, 3:]
        heads = [{"kernel": kernel, "bias": np.zeros(3)} for kernel in kernels]
        params = dict(zip(("mean", "log_var"), heads, strict=True))
        x = np.concatenate([mean, log_var], 1)
        (_, loss), _ = jl.with_losses(model).apply(params, {}, x)
    normal = torch.distributions.Normal
    posterior = normal(torch.tensor(mean), torch.tensor(log_var / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, normal(0.0, 1.0)).sum(-1).mean()
    np.testing.assert_allclose(loss, 0.5 * divergence, 1e-12)
