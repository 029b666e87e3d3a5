"""Every test sees four CPU devices, so that meshes are real; a program is compiled once for all tests."""

import atexit
import os
import shutil
import tempfile

import jax
from hypothesis import settings

from scaling_jax.engines import compile_cache

jax.config.update("jax_num_cpu_devices", 4)

# One compilation cache for the workers of pytest-xdist and the processes that tests start: they inherit these from
# whoever came first. Most of the time of a small training is compilation, and many tests train the same shapes.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="scaling-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
compile_cache.share_between_devices()

# The same examples in every run: a failure is that of a change. To look further: --hypothesis-profile=default.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")
