"""Small modules of PyTorch whose output is one array."""

import pytest

# Its examples are looked for in an environment without PyTorch too.
nn = pytest.importorskip("torch.nn")


class Rows(nn.Module):
    """A recurrent layer over (batch, time, features), its outputs alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x)[0]
