"""The one exception that means "your input is wrong": the command line turns it into one line and exit code 2."""

USER_ERROR, PREEMPTED = 2, 75  # exit codes of the command line


class UserError(ValueError):
    """What the user gave cannot work; the message is one line that says what is wrong and the way out."""


class InUse(UserError):
    """Another process trains this just now."""


class Preempted(RuntimeError):
    """Training was told to stop, has saved, and continues when the same command runs again (exit code 75)."""
