"""tied: a model between an embedding and its transpose."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ..base.arguments import AboveZero
from ..base.constructors import LayerOrFunction, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope, composite
from ..base.sequence import mapped, sequences_in
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..core.dense import dense


@factory
def tied(
    embedding: Layer,
    layer: LayerOrFunction,
    *,
    bias: bool = False,
    soft_cap: AboveZero | None = None,
) -> Layer:
    """A model of ids that uses the table of its embedding for the logits too.

    ``y = layer(embedding(ids)) @ table.T``: one table for both ends (Press & Wolf, 2017,
    arXiv:1608.05859). Flax calls the second use ``attend``, Keras ``ReversibleEmbedding(...)(x,
    reverse=True)``, Equinox ``Shared``. Scales go into ``layer``: ``lambda x: 8.0 * x`` at its
    beginning scales the embedding, at its end the logits. A padding id's row is a column of logits
    as every other, and ``max_norm`` is for the lookup alone. A model that is wired in another way
    takes the table from ``f.embedding.params["embedding"]`` in a ``compose`` body.

    Args:
      embedding: ``Embedding``, or another layer with a parameter ``embedding`` (ids, features).
      layer: from the embedding's output to an array with as many features.
      bias: whether there is one for each id.
      soft_cap: logits become ``soft_cap * tanh(logits / soft_cap)``.

    Shapes:
      x: (...,), integer. y: (..., num_embeddings), of the dtype of the output of ``layer``.
      params: embedding/embedding (num_embeddings, features), those of ``layer``, and bias
      (num_embeddings,).

    Raises:
      LayerError: where the first layer has no such table, and where the output of ``layer`` is not
        one floating array with the features of the table.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.tied(jl.Embedding(100, 16), jl.LSTM(16), soft_cap=30.0)
    >>> params, state = model.init(jax.random.key(0), jl.spec((2, 5), jnp.int32))
    >>> sorted(params), jl.out_spec(model, jl.spec((2, 5), jnp.int32)).shape
    (['embedding', 'layer'], (2, 5, 100))
    """
    children = {
        "embedding": lift_child("embedding", embedding),
        "layer": lift_child("layer", layer),
    }

    def body(f: Scope, ids: PyTree) -> PyTree:
        hidden = f["layer"](f["embedding"](ids))
        # As it is, also where it is a lazy weight: its product need not make the table.
        table: Any = f._params_of("embedding").get("embedding")
        if getattr(table, "ndim", 0) != 2:
            raise LayerError(
                "the first layer has no table of its own",
                expected="a layer with a parameter 'embedding' (ids, features)",
                got=children["embedding"].short(),
                hint="jl.Embedding(...) alone; what comes after it goes into the second layer",
            )
        _check_hidden(hidden, table.shape[1])
        shift = f.param("bias", initializers.zeros, table.shape[:1]) if bias else None

        def logits(hidden: jax.Array) -> jax.Array:
            own = None if shift is None else shift.astype(hidden.dtype)
            y = dense(hidden, table.T.astype(hidden.dtype), own)
            return y if soft_cap is None else soft_cap * jnp.tanh(y / soft_cap)

        return mapped(logits, (hidden,)) if sequences_in(hidden) else logits(hidden)

    return composite(
        body,
        children,
        rebuild=lambda new: tied(new["embedding"], new["layer"], bias=bias, soft_cap=soft_cap),
    )


def _check_hidden(hidden: PyTree, features: int) -> None:
    shape = getattr(hidden, "shape", ())
    if not shape or shape[-1] != features or not jnp.issubdtype(hidden.dtype, jnp.floating):
        raise LayerError(
            "the output of the layer does not fit the table",
            expected=f"floating (..., {features}), the features of the embedding",
            got=format_spec(specs_of(hidden)),
            hint=f"jl.Dense({features}) at the end of the layer",
        )
