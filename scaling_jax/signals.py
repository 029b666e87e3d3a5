"""Signals before anything is imported, and a process that ends with its parent. Standard library only.

`python -m scaling_jax` and the console script call `install` first, so that a SIGTERM or Ctrl-C at start-up ends the
command with 75 instead of a traceback, and is never swallowed by an import. Training replaces these handlers with its
own (`engines.preemption.StopSignal`), which save first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

from scaling_jax.errors import PREEMPTED

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_WITH_PARENT = "SCALING_JAX_STOP_WITH_PARENT"  # environment variable: the process id of the parent
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def install() -> None:
    """Handles signals from now on; stops with the parent process where the environment asks for it."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs ignore SIGINT
            signal.signal(number, _stop)
    if os.environ.get(STOP_WITH_PARENT) == str(os.getppid()):
        stop_with_parent()


def stop_with_parent() -> None:
    """Asks Linux for a SIGTERM when the parent dies; elsewhere does nothing.

    A worker that is killed cannot stop what it started: its pack would train on beside the one that replaces it.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGTERM)


def child_environment() -> dict[str, str]:
    """This process's environment, for a `python -m scaling_jax` that is to stop when this process dies."""
    return {**os.environ, STOP_WITH_PARENT: str(os.getpid())}


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: an exception could be swallowed by whatever is being imported."""
    line = f"scaling-jax: stopped by {signal.Signals(number).name}; run the same command again\n"
    os.write(2, line.encode())
    os._exit(PREEMPTED)
