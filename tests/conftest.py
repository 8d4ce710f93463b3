"""How the tests run: strict JAX, two devices, a compilation cache, and two settings by marker.

Tests run strict: no silent dtype promotion, no silent broadcast. What they cost is compilation, so

* programs are compiled without most of XLA's optimisations, except in tests marked ``optimised``,
  where the optimised program is what is tested (values of an algorithm, equal HLO, memory, cost);
* XLA's older emitters write the machine code, at a third of the time; ``XLA_FLAGS`` in the
  environment goes before that, and ``make test-all`` tests what is ``optimised`` without;
* compiled programs are shared by the workers and kept for the next run, in ``.pytest_cache``,
  except in tests marked ``cold``, which count compilations or measure start-up.
  ``JAX_COMPILATION_CACHE_DIR`` moves that cache and ``JLAYERS_COLD=1`` turns it off.

``tiers.py`` says which tests run when.
"""

import hashlib
import os
import pathlib
import platform

# Before JAX reads it. jaxlib 0.12 no longer knows the first flag, and stops at unknown ones.
import jaxlib.version

if jaxlib.version.__version_info__ < (0, 12):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )

import jax
import jaxlib
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)


def _processor():
    """What compiled code depends on. A program for another processor may end in SIGILL."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def pytest_configure(config):
    if os.environ.get("JLAYERS_COLD", "0") != "0":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    key = hashlib.sha256((platform.machine() + _processor()).encode()).hexdigest()[:12]
    folder = config.rootpath / ".pytest_cache" / f"jax-{jaxlib.__version__}-{key}"
    # By the environment too, so that processes that tests start share it.
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if os.environ.setdefault(name.upper(), str(value)) == str(value):
            jax.config.update(name, value)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Keeps what is collected, before ``-m`` leaves tests out: test_tiers.py reads it."""
    config.stash["collected"] = list(items)


@pytest.fixture(autouse=True)
def compilation(request):
    """Compiles as the test's markers say."""
    marked = {mark.name for mark in request.node.iter_markers()}
    optimised, cold = bool(marked & {"optimised", "conformance"}), "cold" in marked
    cached = jax.config.jax_enable_compilation_cache
    if optimised:
        jax.config.update("jax_disable_most_optimizations", False)
    if cold and cached:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX asks once whether there is one
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    if cold and cached:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


@pytest.fixture
def key():
    return jax.random.key(0)
