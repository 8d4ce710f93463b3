"""S5: a diagonal state space with complex rates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jax.typing import DTypeLike

from ...base.arguments import Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params, Spec
from ...core.dtypes import at_least_float32
from ...core.recurrent.chunking import Carry
from ...core.recurrent.diagonal import DiagonalWeights, diagonal, diagonal_cell
from ...core.recurrent.stepwise import ScanOptions, StepCell
from .cell import CarrySpecs, Cell, CellDefinition, Parameters
from .rnn import short_form
from .state_space import hippo, log_steps


@factory
def S5Cell(
    state_size: Positive,
    *,
    features: Positive | None = None,
    skip: bool = True,
    kernel_init: Initializer = initializers.lecun_normal(),
) -> Layer:
    """A step of a diagonal state space (S5; Smith et al., 2023, arXiv:2208.04933), for ``RNN``.

    With complex ``a = -exp(log_decay) + i frequency``, ``B = write``, ``C = read`` and
    ``d = exp(log_step)``, the input being held during a step::

        s' = exp(a * d) * s + (exp(a * d) - 1) / a * (B @ x)
        y  = 2 * Re(C @ s') + skip * x

    Each of the P states is one of a conjugate pair. At init they are those of HiPPO-N with 2 P
    states. ``RNN`` computes all steps at once, as ``MinGRU`` does.

    Args:
      state_size: how many complex states P there are.
      features: size F of the output's last axis; that of the input if None.
      skip: whether the input is added to the output, which then has its size.
      kernel_init: of write and read in the coordinates of HiPPO, as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, in), floating, and the carry {"y": (batch, F), "state": (batch, P, 2)}, real and
      imaginary parts, float32 at least.
      y: (y in the dtype of ``x``, the carry).
      params: log_decay, frequency, log_step (P,), write (P, in, 2), read (F, P, 2), skip (F,).

    Raises:
      LayerError: for ``features`` that differ from the input's where the input is added.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.RNN(jl.S5Cell(8)), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    rates, vectors = hippo(state_size)

    def turned(real: jax.Array, matrix: np.ndarray) -> jax.Array:
        """``real @ matrix``, the parts of the complex result on a last axis."""
        parts = (jnp.asarray(part, real.dtype) for part in (matrix.real, matrix.imag))
        return jnp.stack([real @ part for part in parts], -1)

    def write_init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        real = kernel_init(key, (shape[1], 2 * shape[0]), dtype)
        return jnp.swapaxes(turned(real, vectors.conj()), 0, 1)

    def read_init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        return turned(kernel_init(key, (2 * shape[1], shape[0]), dtype).T, vectors)

    def parameters(x: Spec) -> Parameters:
        inputs, outputs = x.shape[-1], features or x.shape[-1]
        if skip and inputs != outputs:
            raise LayerError(
                f"with skip the output has the {inputs} features of the input",
                got=f"features={outputs}",
                hint="skip=False",
            )
        log_decay, frequency = np.log(-rates.real), rates.imag
        return {
            "log_decay": (_constant(log_decay), (state_size,)),
            "frequency": (_constant(frequency), (state_size,)),
            "log_step": (log_steps, (state_size,)),
            "write": (write_init, (state_size, inputs, 2)),
            "read": (read_init, (outputs, state_size, 2)),
            "skip": (initializers.normal(1.0), (outputs,)) if skip else None,
        }

    def carry(x: Spec) -> CarrySpecs:
        batch, inputs = x.shape
        state = Spec((batch, state_size, 2), at_least_float32(x.dtype))
        return {"y": Spec((batch, features or inputs), x.dtype), "state": state}

    def weights(params: Params) -> DiagonalWeights:
        given: dict[str, Any] = {name: params.get(name) for name in DiagonalWeights._fields}
        return DiagonalWeights(**given)

    def bind(params: Params, names: tuple[str, ...]) -> StepCell[tuple[jax.Array, jax.Array]]:
        return diagonal_cell(weights(params))

    def scan(
        params: Params, x: jax.Array, carry: Carry, options: ScanOptions, method: str | None
    ) -> tuple[jax.Array, Carry] | None:
        if options.zoneout or method is not None:
            return None
        return diagonal(weights(params), x, carry, options)

    return Cell.of(
        CellDefinition(
            name="s5",
            parameters=parameters,
            carry=carry,
            bind=bind,
            scan=scan,
            float32=DiagonalWeights._fields if skip else DiagonalWeights._fields[:-1],
            has_product=False,
        )
    )


def _constant(values: np.ndarray) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.asarray(values, dtype)

    return init


@factory
def S5(
    state_size: Positive,
    *,
    return_sequences: bool = True,
    reverse: bool = False,
    features: Positive | None = None,
    skip: bool = True,
    kernel_init: Initializer = initializers.lecun_normal(),
) -> Layer:
    """A diagonal state space over a sequence: ``RNN(S5Cell(state_size))``, see both.

    Shapes:
      x: (batch, time, in), floating, or ``(x, resets)``.
      y: (batch, time, F), or (batch, F) without ``return_sequences``; of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.S5(8), jl.spec((4, 10, 32))).shape
    (4, 10, 32)
    """
    return short_form(S5Cell, locals())
