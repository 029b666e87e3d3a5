"""A jitted function with the executable that was compiled for its arguments."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

QUICKLY: dict[str, Any] = {"xla_backend_optimization_level": 1}  # the bits of 2 and 3; those of 0 differ


class Compiled:
    """A jitted function that compiles for its arguments when first called, or when `compile` is.

    Args:
      program: gives (jitted function, ShapeDtypeStructs of its arguments).
      rarely: it is called so rarely that on a CPU compiling it well would take longer than it ever runs.

    Attributes:
      seconds: that compiling took; little where JAX's cache has it.
    """

    def __init__(self, program: Callable[[], tuple[Any, tuple[Any, ...]]], rarely: bool = False):
        self._program, self._executable, self._lock = program, None, threading.Lock()
        quickly = rarely and jax.default_backend() == "cpu" and not jax.config.read("jax_disable_most_optimizations")
        self._options = QUICKLY if quickly else None
        self.seconds = 0.0

    def compile(self) -> Any:
        """The executable, compiled once, by whichever thread asks first."""
        with self._lock:
            if self._executable is None:
                begin = time.monotonic()
                function, arguments = self._program()
                self._executable = function.lower(*arguments).compile(self._options)
                self.seconds = time.monotonic() - begin
            return self._executable

    @functools.cached_property
    def peak_bytes(self) -> int | None:
        """Peak bytes on one device: arguments, results that are not donated arguments, temporaries; None if unknown."""
        try:
            xla = self.compile().memory_analysis()
            held = xla.argument_size_in_bytes + xla.output_size_in_bytes - xla.alias_size_in_bytes
            return int(held + xla.temp_size_in_bytes)
        except (AttributeError, NotImplementedError, RuntimeError):  # not every backend says
            return None

    def __call__(self, *args: Any) -> Any:
        return self.compile()(*args)
