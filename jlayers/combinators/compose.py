"""compose: any wiring of layers, and custom layers, written once for init and apply."""

from __future__ import annotations

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import check_name
from ..base.scope import Body, composite
from ..sequences.array_bodies import checking_streams, taking_sequences

_RESERVED = (
    "add_loss",
    "children",
    "key",
    "param",
    "streaming",
    "train",
    "variable",
)


@factory
def compose(body: Body, /, *, name: str | None = None, **children: LayerOrFunction) -> Layer:
    """Any wiring of layers, or a custom layer, as one function.

    ``body(f, x)`` serves ``init`` and ``apply``. At init it runs on abstract values, so each
    child's input is known and nothing is computed: Python's ``if`` may depend on shapes, but not
    on values.

    Args:
      body: a function of the scope ``f`` and the input ``x``. ``f.child(x)`` calls a child,
        ``f.param(name, init, shape)`` is a parameter, ``f.variable(name, init, shape)`` a value
        in the state, ``f.key()`` a fresh random key, ``f.positions(x)`` where the steps of ``x``
        are, ``f.child.params`` the child's parameters, ``f.train`` whether this is training,
        ``f.add_loss(value)`` a term of the loss.
      name: what a parent names the layer after; by default ``compose``, or the ``factory``.
      **children: layers, or functions of one argument, by name.

    Returns:
      A ``Layer`` with the children's parameters under their names.

    Raises:
      LayerError: for a child that is not a layer, or has a name that ``f`` itself uses.

    >>> import jax, jlayers as jl
    >>> def body(f, x):
    ...     hidden = jax.nn.relu(f.encode(x))
    ...     gain = f.param("gain", jax.nn.initializers.ones, ())
    ...     return x + gain * f.decode(hidden)
    >>> layer = jl.compose(body, encode=jl.Dense(8), decode=jl.Dense(3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((5, 3)))
    >>> sorted(params)
    ['decode', 'encode', 'gain']
    """
    if isinstance(body, Layer):
        raise LayerError(f"the body must be a function of (f, x), got {body.short()}")
    arguments.function("the body", body, "f, x")
    for child in children:
        # ``f.key`` would be either, and the reader could not tell which.
        if child in _RESERVED or child.startswith("_"):
            raise LayerError(
                f"a child cannot be named {child!r}: f.{child} is an attribute of the scope"
            )
        check_name(child)
    # Lifted by keyword, since errors and paths use that name.
    layers = {child: lift_child(child, layer) for child, layer in children.items()}
    # Only bodies that users wrote need it; those of the combinators take Sequences.
    whole = taking_sequences(body, layers)
    return composite(
        whole,
        layers,
        name=name,
        rebuild=lambda new: compose(body, name=name, **new),
        check_stream=checking_streams(body, layers),
    )
