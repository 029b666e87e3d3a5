"""Exceptions, and how the command line reports them: one line and an exit code."""

from __future__ import annotations

import errno
import functools
import json
import os
from typing import Any, TypeVar

T = TypeVar("T")
USER_ERROR, PREEMPTED = 2, 75  # exit codes of the command line


class UserError(ValueError):
    """The user's input cannot work; the message is one line that says what is wrong and the way out."""


class InUse(UserError):
    """Another process is training this."""


class Preempted(RuntimeError):
    """Training was asked to stop, has saved, and continues when the same command runs again (exit code 75)."""


class EngineError(RuntimeError):
    """Packs that an engine ran elsewhere did not all succeed.

    Attributes:
      code: exit code for all of them: 2 wrong input, 75 preempted too often, 1 anything else.
    """

    def __init__(self, code: int):
        super().__init__(f"not every pack succeeded (exit code {code}); see their messages above")
        self.code = code


def is_disk_full(error: BaseException | None) -> bool:
    """Returns True if a full disk (or quota) is behind an error, even one that a library has wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in ("No space left on device", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False


def describe_foreign(error: BaseException) -> str | None:
    """An error of the operating system or of a file format in one line; None for any other error.

    Files are read where the caller knows their names, and refused there with a `UserError`; this is the net below.
    """
    if isinstance(error, OSError) and error.errno is not None:
        names = [repr(os.fspath(name)) for name in (error.filename, error.filename2) if name is not None]
        reason = os.strerror(error.errno).lower()
        place = " -> ".join(_shorten(name) for name in names)
        return f"{place}: {reason}; check the path and its permissions" if place else reason
    if isinstance(error, json.JSONDecodeError):
        return f"a JSON file is damaged ({error}); restore it or remove it"
    if isinstance(error, UnicodeError):
        return f"a text is not valid UTF-8 ({_shorten(str(error))}); convert it"
    if _is_invalid(error):
        return describe_invalid(error)
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, MemoryError):
        return "not enough memory for this input; make it smaller"
    if type(error).__module__.partition(".")[0] in ("pyarrow", "pandas", "zipfile", "zlib", "PIL"):
        return f"a file cannot be read ({type(error).__name__}: {_shorten(str(error))})"
    return None


def first_line(error: BaseException) -> str:
    """An exception's message in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[: limit - 60]}...{text[-50:]}"


def _is_invalid(error: BaseException) -> bool:
    """Whether an error is pydantic's, without an import of it."""
    return type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic")


def one_line(made: type[T]) -> type[T]:
    """A pydantic dataclass whose constructor says in one line, a `UserError`, which value is wrong."""
    build = made.__init__

    @functools.wraps(build)
    def checked(self: Any, *args: Any, **fields: Any) -> None:
        try:
            build(self, *args, **fields)
        except ValueError as error:
            if not _is_invalid(error):
                raise
            raise UserError(f"{made.__name__}: {describe_invalid(error)}") from None

    setattr(made, "__init__", checked)  # noqa: B010 (pyright refuses the assignment)
    return made


def describe_invalid(error: Any) -> str:
    """The first complaint of a pydantic `ValidationError` in one line: field, what is wrong, the offending value."""
    # Of a misspelled name, the name that was given rather than the one that is missed.
    first = min(error.errors(), key=lambda e: not e["type"].startswith("unexpected"))
    where = ".".join(str(part) for part in first["loc"])
    message, value = first["msg"].removeprefix("Value error, "), repr(first.get("input"))
    shown = f" (got {value})" if len(value) < 110 and value not in message and first["type"] != "missing" else ""
    text = f"{where + ': ' if where else ''}{message}{shown}"
    return " ".join(text.split())
