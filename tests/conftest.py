"""Every test sees four CPU devices, so that meshes are real; programs are compiled once for all tests, and quickly.

What the README's command runs takes at most 10 minutes on two cores. Most of a small test's time is compilation and
imports; so
- train `bigram.Bigram`, which compiles in a tenth of a transformer's time, unless the test is about a model,
  in the shapes of `ladder` and `packs`, which other tests have compiled;
- call the command line in this process (`ladder.run_here`); a process of its own imports for seconds;
- share what is trained or fitted in a fixture of module scope: pytest-xdist gives a file to one worker;
- mark a test of more than five seconds `slow`: the README's command leaves it out, `.ci/run` runs it. Files with such
  tests begin first, so that none is waited for at the end.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile

import jax
import pytest
from hypothesis import settings
from jax._src import compiler

from scaling_jax.engines import compile_cache

jax.config.update("jax_num_cpu_devices", 4)

# One compilation cache for the workers of pytest-xdist and the processes that tests start: they inherit these from
# whoever came first. Most of the time of a small training is compilation, and many tests train the same shapes.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="scaling-jax-tests-")
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
compile_cache.share_between_devices()
jax.config.update("jax_disable_most_optimizations", True)

# So do the bytecode of the package, which takes each process half a second to compile, and pytest's of the tests: both
# are written while the tests are collected, also where PYTHONDONTWRITEBYTECODE is set.
DONT_WRITE_BYTECODE, sys.dont_write_bytecode = sys.dont_write_bytecode, False

# XLA's older emitters for CPUs compile in 60% of the time, where jaxlib still has them, and one part of a program in
# 75% of the processor time of 32. What is optimized, as users' programs are, keeps the defaults: so this process takes
# the options and those that it starts the flags.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
FLAGS = "".join(f" --{name}={str(value).lower()}" for name, value in QUICK.items())


def compile_quickly():
    """Sets the options, unless this jaxlib does not know one."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").replace(FLAGS, "")  # of the process that started this one
    try:
        jax.jit(lambda x: x + 1, compiler_options=QUICK)(0)
    except Exception:
        return
    os.environ["XLA_FLAGS"] += FLAGS
    options = compiler.get_compile_options

    def quick_options(*args, env_options_overrides=None, **kwargs):
        quick = QUICK if jax.config.read("jax_disable_most_optimizations") else {}
        return options(*args, env_options_overrides=quick | (env_options_overrides or {}), **kwargs)

    compiler.get_compile_options = quick_options


compile_quickly()

# Imports make millions of objects that stay: looking through them again and again took a fifth of the collection.
gc.disable()

# The same examples in every run: a failure is that of a change. To look further: --hypothesis-profile=default.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")


@pytest.fixture(scope="module")
def optimized():
    """Programs compiled as users compile them, for tests that compare the bits of different programs."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_finish():
    """Garbage is collected again, but never looked for in what was imported; bytecode is written as the user has it."""
    gc.freeze()
    gc.enable()
    sys.dont_write_bytecode = DONT_WRITE_BYTECODE


def pytest_collection_modifyitems(items):
    """Files with slow tests first."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
