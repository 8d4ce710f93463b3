"""rxnmapper 0.4.3: an ALBERT that reads reactions, whose attention says which atom goes where.

``albert`` is the network, ``load`` takes its weights from the package, ``encode`` makes ids of
reaction SMILES. ``results`` runs the network beside ``transformers.AlbertModel``.
"""

import functools
import re
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

import jlayers as jl

from .wheels import Result, largest_difference, path

FOLDER = "models/transformers/albert_heads_8_uspto_all_1310k"
WEIGHTS = "pytorch_model.bin"
# Whose attention the package reads, counted from 0.
LAYER, HEAD = 10, 5
# Of the tests of the package, in the form that it gives to its model.
REACTIONS = (
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
    "CC[O-]~[Na+].BrCC.[Na+]~[H-]>>CCOCC",
)
TOKENS = re.compile(
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$"
    r"|\%[0-9]{2}|[0-9])"
)


def albert() -> jl.Layer:
    """Ids (batch, time) to steps (batch, time, 256), a vector (batch, 256) and all attention.

    The last one is (batch, layers, heads, time, time), the weights of a step for each other one.
    """
    norm = jl.LayerNorm(epsilon=1e-12)
    first = jl.on_sequence(lambda x: x.values[:, 0])
    gelu = functools.partial(jax.nn.gelu, approximate=False)

    def embed(f, ids):
        return f.words(ids) + f.types(jnp.zeros_like(ids))

    def block(f, x):
        attended, weights = f.attend(x)
        x = f.norm(x + attended)
        return f.norm_mlp(x + f.mlp(x)), weights

    def body(f, ids):
        x, attention = f.embedding(ids), []
        for _ in range(12):
            x, weights = f.block(x)
            attention.append(weights)
        return x, f.pooler(x), jnp.stack(attention, axis=1)

    return jl.compose(
        body,
        embedding=jl.serial(
            jl.compose(embed, words=jl.Embedding(591, 128), types=jl.Embedding(2, 128)),
            positions=jl.PositionEmbedding(512),
            norm=norm,
            widen=jl.Dense(256),
        ),
        block=jl.compose(
            block,
            attend=jl.SelfAttention(8, weights=True),
            norm=norm,
            mlp=jl.serial(jl.Dense(512), gelu, jl.Dense(256)),
            norm_mlp=norm,
        ),
        pooler=jl.serial(first=first, dense=jl.Dense(256), tanh=jnp.tanh),
    )


SHARED = "encoder.albert_layer_groups.0.albert_layers.0"
RULES = (
    "predictions ->",
    "albert.* -> *",
    "embeddings.position_embeddings.weight -> embedding.positions.embedding",
    # In the file the norm of the whole block comes first, and it runs last: not by order.
    f"{SHARED}.full_layer_layer_norm -> block.norm_mlp",
    f"{SHARED}.attention.LayerNorm -> block.norm",
)


def load() -> tuple[jl.Layer, dict, dict]:
    """The network, its parameters and its state."""
    model, ids = albert(), jl.Sequence.from_lengths(np.zeros((1, 2), "int32"), np.array([2]))
    arrays = jl.interop.read(path("rxnmapper", f"{FOLDER}/{WEIGHTS}"))
    return model, *jl.interop.match(model, ids, arrays, rules=RULES).load()


def encode(reactions: Sequence[str]) -> jl.Sequence:
    """Ids of reaction SMILES, with those of [CLS] in front and of [SEP] behind."""
    tokens = path("rxnmapper", f"{FOLDER}/vocab.txt").read_text().splitlines()
    number = {token: i for i, token in enumerate(tokens)}
    rows = [
        [number.get(token, number["[UNK]"]) for token in ("[CLS]", *TOKENS.findall(line), "[SEP]")]
        for line in reactions
    ]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), "int32")
    for row, known in zip(ids, rows, strict=True):
        row[: len(known)] = known
    return jl.Sequence.from_lengths(ids, lengths)


def valid(outputs: Sequence, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Steps, vectors and attention as arrays, with zeros where there is padding."""
    steps, vectors, attention = map(np.asarray, outputs)
    both = mask[:, None, None, :, None] & mask[:, None, None, None]
    return np.where(mask[..., None], steps, 0), vectors, np.where(both, attention, 0)


def results() -> Iterator[Result]:
    """Reactions of several lengths in one batch.

    In float32, what the package reads: one head of the eleventh block. Behind twelve passes through
    one block the steps of both are further from those in float64 than from each other, so all
    outputs are compared in float64.
    """
    model, params, state = load()
    ids = encode(REACTIONS)
    mask = np.array(ids.mask)
    inputs = f"{len(mask)} reactions of {mask.sum(1).min()} to {mask.sum(1).max()} tokens"
    transformers.logging.set_verbosity_error()
    original = transformers.AlbertModel.from_pretrained(
        path("rxnmapper", FOLDER), attn_implementation="eager", output_attentions=True
    )

    def ours(params: dict) -> tuple[np.ndarray, ...]:
        (steps, vectors, attention), _ = jax.jit(model.apply)(params, state, ids)
        return valid((steps.values, vectors, attention), mask)

    def theirs() -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            y = original(torch.tensor(np.array(ids.values)), torch.tensor(mask))
        attention = np.stack(y.attentions, axis=1)
        return valid((y.last_hidden_state, y.pooler_output, attention), mask)

    found = [each[2][:, LAYER, HEAD] for each in (ours(params), theirs())]
    name = f"rxnmapper, {WEIGHTS}"
    yield Result(
        f"{name}, attention",
        "transformers",
        inputs,
        *largest_difference(*([each] for each in found)),
    )
    original.double()
    with jax.enable_x64(True):
        exact = ours(jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), params))
    yield Result(
        f"{name}, all outputs, float64",
        "transformers",
        inputs,
        *largest_difference(exact, theirs()),
    )
