"""Options of XLA under which programs of these layers run faster."""

from __future__ import annotations

import functools

import jax

# Those that JAX lowers for; core functions choose for a CPU and for all others (``record_choice``).
PLATFORMS = ("cpu", "gpu", "tpu")
# Measured on whole steps, as were those that are not here (docs/notes/0016-first-step.md).
_CPU: dict[str, bool | str] = {
    # Loops that read a part of what they write copy none of it.
    "xla_cpu_copy_insertion_use_region_analysis": True,
}


def compiler_options(platform: str | None = None) -> dict[str, bool | str]:
    """Options for ``jax.jit(..., compiler_options=...)``, with which loops copy less on CPU.

    ``training.fit`` compiles its step with them, and ``decoding`` its programs; a jit of your own
    takes them as an argument. JAX accepts them for an outermost ``jit`` alone.

    Args:
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``; by default the one that JAX uses here.

    Returns:
      Those options for that platform that this version of jaxlib knows; none except on CPU.

    Raises:
      ValueError: for another platform.

    >>> import jax, jlayers as jl
    >>> double = jax.jit(lambda x: 2 * x, compiler_options=jl.compiler_options())
    >>> float(double(1.0))
    2.0
    """
    if platform is None:
        platform = jax.default_backend()
    else:
        check_platform(platform)
    return {name: _CPU[name] for name in _known()} if platform == "cpu" else {}


def check_platform(platform: str) -> None:
    """Raises a ``ValueError`` unless it is one of ``PLATFORMS``."""
    if platform not in PLATFORMS:
        raise ValueError(
            f"platform {platform!r} is unknown\n  expected: {', '.join(map(repr, PLATFORMS))}"
        )


@functools.cache
def _known() -> tuple[str, ...]:
    """The options that this jaxlib knows."""
    return tuple(name for name, value in _CPU.items() if is_known_option(name, value, "cpu"))


@functools.cache
def is_known_option(name: str, value: bool | int | str, platform: str) -> bool:
    """Whether this jaxlib's compiler for the devices of a platform takes an option."""
    # Nothing lists them: an unknown one is an error of the compiler.
    program = jax.jit(lambda: 0, compiler_options={name: value})
    try:
        with jax.default_device(jax.local_devices(backend=platform)[0]):
            program.lower().compile()
    except RuntimeError:
        return False
    return True
