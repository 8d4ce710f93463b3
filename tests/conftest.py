"""How the tests run: strict JAX, two devices, a compilation cache, and two settings by marker.

Tests run strict: no silent dtype promotion, no silent broadcast. What they cost is compilation, so

* programs are compiled without most of XLA's optimisations, and by its older emitters, at a third
  of the time, except in tests marked ``optimised``, where the optimised program is what is tested:
  equal HLO, memory, cost. ``optimised(full=True)``, of the algorithms' values, is for
  ``make test-all`` alone, which runs the tests that are marked so with ``JLAYERS_OPTIMISED=1``:
  with all optimisations, and XLA as it comes;
* compiled programs are shared by the workers and kept for the next run, in ``.pytest_cache``,
  except in tests marked ``cold``, which count compilations or measure start-up.
  ``JAX_COMPILATION_CACHE_DIR`` moves that cache and ``JLAYERS_COLD=1`` turns it off;
* programs are lowered without the lines of Python they come from, and Python looks for cycles in
  its garbage more rarely: together about a tenth of the time.

``tiers.py`` says which tests run when.
"""

import gc
import hashlib
import os
import pathlib
import platform
import signal

import jaxlib.version

# Before JAX reads it. jaxlib 0.12 no longer knows the first flag, and stops at unknown ones.
if os.environ.get("JLAYERS_OPTIMISED", "0") == "0" and jaxlib.version.__version_info__ < (0, 12):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )

import jax
import jaxlib
import pytest
from jax.experimental.compilation_cache import compilation_cache
from oracles import ledger

AS_IT_COMES = os.environ.get("JLAYERS_OPTIMISED", "0") != "0"
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_traceback_in_locations_limit", 0)
# The collected tests are a million objects, and a full collection looks at all of them.
gc.set_threshold(50_000, 10, 10)


def _processor():
    """What compiled code depends on. A program for another processor may end in SIGILL."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def pytest_addoption(parser):
    parser.addoption("--conformance-page", help="the file to write the page of conformance to")


def pytest_configure(config):
    if config.getoption("--conformance-page"):
        config.pluginmanager.register(ledger.Plugin(config))
    # A shell starts what runs in the background with SIGINT ignored, and tests send it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    mark, cold = (request.node.get_closest_marker(name) for name in ("optimised", "cold"))
    optimised = AS_IT_COMES or (mark is not None and not mark.kwargs.get("full"))
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


@pytest.fixture(autouse=True)
def only_own_garbage(request):
    """Benchmarks collect garbage before they time: gigabytes of it, where many tests ran before."""
    bench = request.path.parent.name == "bench"
    if bench:
        gc.freeze()
    yield
    if bench:
        gc.unfreeze()


@pytest.fixture
def key():
    return jax.random.key(0)
