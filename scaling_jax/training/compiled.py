"""A jitted function that is compiled once, when first needed or ahead of that, by whichever thread asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Compiled:
    """A jitted function that compiles for its arguments when first called, or when `compile` is.

    Args:
      program: gives (jitted function, ShapeDtypeStructs of its arguments).
    """

    def __init__(self, program: Callable[[], tuple[Any, tuple[Any, ...]]]):
        self._program, self._executable, self._lock = program, None, threading.Lock()

    def compile(self) -> Any:
        """The executable, compiled once, by whichever thread asks first."""
        with self._lock:
            if self._executable is None:
                function, arguments = self._program()
                self._executable = function.lower(*arguments).compile()
            return self._executable

    def __call__(self, *args: Any) -> Any:
        return self.compile()(*args)
