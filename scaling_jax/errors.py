"""Exceptions and failures that the command line turns into one line and an exit code."""

from __future__ import annotations

import errno

USER_ERROR, PREEMPTED = 2, 75  # exit codes of the command line


class UserError(ValueError):
    """What the user gave cannot work; the message is one line that says what is wrong and the way out."""


class InUse(UserError):
    """Another process trains this just now."""


class Preempted(RuntimeError):
    """Training was told to stop, has saved, and continues when the same command runs again (exit code 75)."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk (or quota) is behind an error, also one that a library has wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in ("No space left on device", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False
