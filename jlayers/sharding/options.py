"""Options of XLA for programs on several devices, as the few choices that they amount to."""

from __future__ import annotations

import jax

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.specs import format_short
from ..core.compiler import check_platform, is_known_option

Options = dict[str, bool | int | str]

# [1] https://docs.jax.dev/en/latest/gpu_performance_tips.html
# [2] https://docs.jax.dev/en/latest/xla_flags.html, of which older versions list TPU options too.
_CHOICES: dict[str, dict[str, Options]] = {
    "overlap": {
        "gpu": {
            "xla_gpu_enable_latency_hiding_scheduler": True,  # [1]
            # [2]; jaxlib 0.12 has none of these three.
            "xla_gpu_enable_pipelined_all_gather": True,
            "xla_gpu_enable_pipelined_reduce_scatter": True,
            "xla_gpu_enable_pipelined_all_reduce": True,
        },
        "tpu": {  # [2]
            "xla_enable_async_all_gather": "true",
            "xla_enable_async_collective_permute": "true",
            "xla_tpu_enable_async_collective_fusion": True,
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
            "xla_tpu_overlap_compute_collective_tc": True,
        },
    },
    "pipeline": {
        "gpu": {  # [1], "Pipeline Parallelism on GPU"
            "xla_gpu_enable_latency_hiding_scheduler": True,
            "xla_gpu_enable_command_buffer": "",
            "xla_disable_hlo_passes": "collective-permute-motion",
            "xla_gpu_experimental_pipeline_parallelism_opt_level": (
                "PIPELINE_PARALLELISM_OPT_LEVEL_ENABLE"
            ),
        },
        "tpu": {},
    },
    "slices": {
        "gpu": {},
        "tpu": {  # [2]
            "xla_tpu_enable_data_parallel_all_reduce_opt": True,
            "xla_tpu_data_parallel_opt_different_sized_ops": True,
        },
    },
}
_COMBINED = ("all_gather", "reduce_scatter", "all_reduce")


@public_api
def compiler_options(
    choice: str, platform: str | None = None, *, combine: int | None = None
) -> Options:
    """Options of XLA for ``jax.jit(..., compiler_options=...)`` and ``fit`` on several devices.

    * ``"overlap"``: what devices send is sent while they compute. For data, FSDP and tensor
      parallel steps; it needs memory for what is on its way.
    * ``"pipeline"``: the same for stages of a pipeline, which pass activations on (GPU).
    * ``"slices"``: sums of gradients between slices of TPUs, over the network of the data centre,
      overlap with the computation (TPU).

    They are those that JAX's documentation names: "GPU performance tips"
    (https://docs.jax.dev/en/latest/gpu_performance_tips.html) and "XLA compiler flags"
    (https://docs.jax.dev/en/latest/xla_flags.html; its TPU options are in versions up to 2025).
    None of them is measured here: without GPUs and TPUs in the project's tests their names alone
    are checked. Measure a step with and without.

    Args:
      choice: one of these.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``; by default the one that JAX uses here.
      combine: the bytes up to which small transfers are joined into one on GPUs, elsewhere without
        effect. JAX's page says: at least the parameters of one layer of a transformer.

    Returns:
      Those options that this version of jaxlib knows; none on CPU, and none where the choice does
      not concern the platform. Names for TPUs are returned as they are except on a TPU, since no
      other compiler knows them.

    Raises:
      LayerError: for another choice, or an invalid ``combine``.
      ValueError: for another platform.

    >>> import jlayers as jl
    >>> gpu = jl.sharding.compiler_options("overlap", "gpu", combine=2**25)
    >>> gpu["xla_gpu_enable_latency_hiding_scheduler"]
    True
    >>> gpu["xla_gpu_all_gather_combine_threshold_bytes"]
    33554432
    """
    if choice not in _CHOICES:
        raise LayerError(
            f"the choice {format_short(choice)} is unknown",
            expected=", ".join(map(repr, _CHOICES)),
        )
    if platform is None:
        platform = jax.default_backend()
    check_platform(platform)
    options: Options = {**_CHOICES[choice].get(platform, {})}
    size = None if combine is None else arguments.positive("combine", combine)
    if size is not None and platform == "gpu":
        options |= {f"xla_gpu_{kind}_combine_threshold_bytes": size for kind in _COMBINED}
    return _known(options, platform)


def _known(options: Options, platform: str) -> Options:
    here = jax.default_backend()
    if platform == "tpu" and here != "tpu":
        return options
    # The compiler for CPUs knows the names for GPUs too: both are those of open XLA.
    by = platform if platform == here else "cpu"
    return {name: value for name, value in options.items() if is_known_option(name, value, by)}
