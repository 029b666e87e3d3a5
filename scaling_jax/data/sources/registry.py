"""The names that `data.source` may have besides paths and TFDS names; anybody may register more."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable

from scaling_jax.data.sources.source import Source
from scaling_jax.errors import UserError
from scaling_jax.study import Data

ENTRY_POINTS = "scaling_jax.sources"
Make = Callable[[Data], Source]


@dataclasses.dataclass(frozen=True)
class Registered:
    """A named source: `make` builds it for a study's data, `description` is its line in `scaling-jax data list`."""

    name: str
    description: str
    make: Make


_registered: dict[str, Registered] = {}


def register(name: str, description: str = "") -> Callable[[Make], Make]:
    """Decorator that makes a function the source `name`.

    The function takes the study's `Data` and returns a `Source`. It should be quick and light to import: data is read
    only when `Source.open` is called. Registering in the study's file is enough for every command with `--study`; a
    package registers for all commands with an entry point of the group "scaling_jax.sources".

    Args:
      name: what users write as `data.source`; not a path.
      description: one line for `scaling-jax data list`.

    Raises:
      ValueError: the name is empty or looks like a path.
    """
    if not name or any(sign in name for sign in "/\\~") or name.startswith("."):
        raise ValueError(f"a source name must not be empty or look like a path, got {name!r}")

    def decorate(make: Make) -> Make:
        _registered[name] = Registered(name, description, make)
        return make

    return decorate


def registered() -> dict[str, Registered]:
    """All registered sources by name, those of installed packages included."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name not in _registered:
            register(point.name, f"from the package {point.dist.name if point.dist else point.value}")(_load(point))
    return dict(_registered)


def find(name: str) -> Registered | None:
    """The source registered as `name`, or None."""
    return _registered.get(name) or registered().get(name)


def _load(point: importlib.metadata.EntryPoint) -> Make:
    def make(data: Data) -> Source:
        try:
            return point.load()(data)
        except (ImportError, AttributeError) as error:
            raise UserError(f"data.source {point.name!r}: {point.value!r} cannot be imported ({error})") from error

    return make
