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

# Variables that change the speed of all frameworks; stored with the figures.
VARIABLES = ("XLA_FLAGS", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def device() -> dict[str, Any]:
    """The device of this run: its name, and a slug that names its folder of results."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        count, noun, name = cores(), "cores", processor()
    else:
        count, noun, name = 1, "device", first.device_kind
    words = re.sub(r"\((r|tm)\)", "", f"{first.platform} {count} {noun} {name}".lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    return {"slug": slug, "platform": first.platform, "name": name, "count": count}


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name as its maker writes it."""
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def environment(installed: dict[str, str | None]) -> dict[str, Any]:
    """What figures depend on besides the device: two runs with equal ones are comparable."""
    import jlayers

    jaxlib, python = importlib.metadata.version("jaxlib"), platform.python_version()
    versions = {**installed, "jaxlib": jaxlib, "python": python}
    return {
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
