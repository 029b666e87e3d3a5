"""The names that `--engine` and `sj.run(engine=...)` know; anybody may register more."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from scaling_jax.errors import UserError

ENTRY_POINTS = "scaling_jax.engines"
LOCAL = "local"  # trains in this process, and is not an engine
SIMULATE = "simulate"  # draws losses from a law, see `scaling_jax.simulation`; no engine either
# Engines that come with the package; each needs packages or commands of its own, so none is imported before its use.
BUILT_IN = {
    "ray": "scaling_jax.engines.ray_engine",
    "slurm": "scaling_jax.engines.slurm",
    "xpk": "scaling_jax.engines.xpk",
}

# (jobs, settings) -> exit code; see `engines.base` for both.
Engine = Callable[[Any, Any], int]

_registered: dict[str, Engine] = {}


def register(name: str) -> Callable[[Engine], Engine]:
    """Decorator that makes a function the engine `name`.

    The function gets a sequence of `engines.base.Job`, longest first, and the `engines.base.Settings`. It starts
    `engines.base.python_command(job.command)` of every job somewhere, starts it again when it exits with 75,
    and returns one exit code, such as `engines.base.exit_code(codes)`. A package registers for the command line with an
    entry point of the group "scaling_jax.engines".

    Raises:
      ValueError: the name is empty, "local" or "simulate".
    """
    if not name or name in (LOCAL, SIMULATE):
        raise ValueError(f"an engine cannot be called {name!r}")

    def decorate(engine: Engine) -> Engine:
        _registered[name] = engine
        return engine

    return decorate


def names() -> list[str]:
    """Every name that `find` knows."""
    return sorted({*BUILT_IN, *_registered, *(point.name for point in _points())})


def find(name: str) -> Engine:
    """The engine of this name.

    Raises:
      UserError: there is none, or its package cannot be imported.
    """
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        return importlib.import_module(BUILT_IN[name]).run
    for point in _points():
        if point.name == name:
            try:
                return point.load()
            except (ImportError, AttributeError) as error:
                raise UserError(f"engine {name!r}: {point.value!r} cannot be imported ({error})") from error
    near = difflib.get_close_matches(name, [LOCAL, SIMULATE, *names()], 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"no engine {name!r}; {hint}known: {', '.join([LOCAL, SIMULATE, *names()])}")


def _points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
