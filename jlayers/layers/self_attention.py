"""SelfAttention: every step of a sequence looks at the others."""

from __future__ import annotations

import jax
from jax.nn import initializers

from .. import checks, core
from ..errors import LayerError
from ..factory import factory
from ..layer import Layer
from ..lifting import stateless
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params, show


@factory
def SelfAttention(
    heads: int,
    *,
    causal: bool = False,
    kv_heads: int | None = None,
    head_size: int | None = None,
    features: int | None = None,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``y = concat_i(softmax(q_i k_i' / sqrt(head_size)) v_i) @ out_kernel + out_bias``.

    With ``q = x @ query_kernel + query_bias``, cut into heads, and ``k`` and ``v`` likewise
    (Vaswani et al., 2017, arXiv:1706.03762).

    Args:
      heads: how many.
      causal: no step sees a later one.
      kv_heads: heads of keys and values, each for ``heads / kv_heads`` neighbouring heads of
        queries (Ainslie et al., 2023, arXiv:2305.13245); ``heads`` if None.
      head_size: features of a head; those of the input / ``heads`` if None.
      features: size of the output's last axis; that of the input if None.
      bias: whether the four maps have one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.
      method: as for ``core.attention``.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, features), of the dtype of ``x``; the softmax
      is float32 at least.
      params: query_kernel (in, heads * head_size), key_kernel and value_kernel
      (in, kv_heads * head_size), out_kernel (heads * head_size, features), and a bias for each:
      query_bias, key_bias, value_bias, out_bias.

    Raises:
      LayerError: for ``kv_heads`` that do not divide ``heads``, ``heads`` that do not divide the
        features of the input where no ``head_size`` is given, and an input that is not one
        floating array of rank 3.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SelfAttention(4, causal=True), jl.spec((2, 10, 32))).shape
    (2, 10, 32)
    """
    heads = checks.positive("heads", heads)
    causal, bias = checks.flag("causal", causal), checks.flag("bias", bias)
    kv_heads = heads if kv_heads is None else checks.positive("kv_heads", kv_heads)
    if heads % kv_heads:
        raise LayerError(f"kv_heads {kv_heads} do not divide the {heads} heads")
    if head_size is not None:
        head_size = checks.positive("head_size", head_size)
    if features is not None:
        features = checks.positive("features", features)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        checks.one_array(
            x,
            "(batch, time, features)",
            rank=3,
            lower="Reshape((time, features)) before it; Embedding for ids",
        )
        checks.floating(x, "x.astype(jnp.float32); Embedding for integer ids")
        checks.real(x)
        checks.has_features(x, "(batch, time, features)")
        width = x.shape[-1]
        if head_size is None and width % heads:
            raise LayerError(
                f"{heads} heads do not divide the {width} features of the input",
                got=show(x),
                mend="head_size=..., the features of one head",
            )
        size = head_size or width // heads
        maps = {
            "query": (width, heads * size),
            "key": (width, kv_heads * size),
            "value": (width, kv_heads * size),
            "out": (heads * size, features or width),
        }
        kernels = {f"{name}_kernel": (kernel_init, shape) for name, shape in maps.items()}
        biases = {f"{name}_bias": (bias_init, shape[1:]) for name, shape in maps.items()}
        return initialize(key, x, **kernels, **(biases if bias else {}))

    def apply(params: Params, x: jax.Array) -> jax.Array:
        p = cast_like(params, x)

        def split(name: str, count: int) -> jax.Array:
            y = core.dense(x, p[f"{name}_kernel"], p.get(f"{name}_bias"))
            return y.reshape(*x.shape[:2], count, y.shape[-1] // count)

        q, k, v = split("query", heads), split("key", kv_heads), split("value", kv_heads)
        y = core.attention(q, k, v, causal=causal, method=method)
        y = y.reshape(*x.shape[:2], p["out_kernel"].shape[0])
        return core.dense(y, p["out_kernel"], p.get("out_bias"))

    return stateless(init, apply)
