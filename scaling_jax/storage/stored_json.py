"""JSON files that are read back: of the type that was written, or refused in one line."""

from __future__ import annotations

import functools
import json
from typing import Any

import pydantic

from scaling_jax.errors import describe_invalid


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(kind)


def read(path: Any, kind: Any) -> Any:
    """The content of a JSON file.

    Args:
      path: local or gs://.
      kind: a type such as a dataclass or `dict[str, float]`; numbers that are written as text are taken.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: it cannot be read, or holds something else; the message is one line.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error
    return checked(content, kind)


def checked(content: Any, kind: Any) -> Any:
    """What JSON holds as `kind`.

    Raises:
      ValueError: it is something else; the message is one line.
    """
    try:
        return _adapter(kind).validate_python(content)
    except pydantic.ValidationError as error:
        raise ValueError(describe_invalid(error)) from None
