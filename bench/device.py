"""Where and with what a run was made: the processor, the versions, the date."""

import datetime
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sys
from typing import Any

import jax

CPUINFO = pathlib.Path("/proc/cpuinfo")
MODEL_NUMBERS = {"family": "cpu family", "model": "model", "part": "CPU part"}
# The first that a processor has is named; wider and newer ones are before others.
VECTORS = {
    "amx_tile": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "sve2": "SVE2",
    "sve": "SVE",
    "asimd": "NEON",
}
# Variables that change the speed of all frameworks; stored with the figures.
VARIABLES = ("XLA_FLAGS", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def device() -> dict[str, Any]:
    """The device of this run.

    Returns:
      ``name`` and ``count``, ``model`` as finely as the system tells it (empty where it does not),
      and ``slug``, which names the folder of its results; see ``bench.results``.
    """
    first = jax.devices()[0]
    if first.platform == "cpu":
        count, noun, name, model = cores(), "cores", processor(), processor_model()
    else:
        count, noun, name, model = 1, "device", first.device_kind, ""
    slug = slug_of(f"{first.platform} {count} {noun} {name}")
    return {"slug": slug, "platform": first.platform, "name": name, "model": model, "count": count}


def slug_of(text: str) -> str:
    words = re.sub(r"\((r|tm)\)", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name as its maker writes it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def processor_model() -> str:
    """Its generation, which names like "AMD EPYC" hide: family, model, widest vector extension."""
    found = _cpuinfo()
    numbers = [f"{what} {found[key]}" for what, key in MODEL_NUMBERS.items() if key in found]
    flags = found.get("flags", found.get("Features", "")).split()
    vectors = [name for flag, name in VECTORS.items() if flag in flags]
    return ", ".join([*numbers, *vectors[:1]])


def _cpuinfo() -> dict[str, str]:
    """What the system says about its first processor; empty where it says nothing."""
    if not CPUINFO.exists():
        return {}
    lines = CPUINFO.read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def environment(installed: dict[str, str | None]) -> dict[str, Any]:
    """What figures depend on besides the device: two runs with equal ones are comparable."""
    import jlayers

    jaxlib, python = importlib.metadata.version("jaxlib"), platform.python_version()
    versions = {**installed, "jaxlib": jaxlib, "python": python}
    return {
        "processor": processor_model(),
        "versions": {name: version for name, version in versions.items() if version},
        "jlayers": digest(pathlib.Path(jlayers.__file__).parent),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "system": f"{platform.system()} {platform.machine()}",
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(path: pathlib.Path) -> str:
    """A short hash of the Python text of a file or a folder, as a version of work in progress."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(file.relative_to(path.parent).as_posix().encode() + file.read_bytes())
    return total.hexdigest()[:12]


def choose_platform(name: str) -> None:
    """Selects JAX's backend, before its first use. The CPU stays available, for the reference."""
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda,cpu"}[name]
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    wanted = "a GPU is needed" if name == "gpu" else "a processor is needed"
    hint = "; is jax[cuda13] installed, and does nvidia-smi show a device?" if name == "gpu" else ""
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        sys.exit(f"{wanted}, and JAX has none here: {str(error).splitlines()[0]}{hint}")
    if found != name:
        sys.exit(f"{wanted}, and JAX runs on {found}{hint}")
