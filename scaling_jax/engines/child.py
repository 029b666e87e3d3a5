"""`python -m scaling_jax.engines.child run ...`: the command line, told to stop (SIGTERM) when its parent dies.

A worker that is killed cannot stop what it started; without this its pack would go on beside the one that replaces it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_parent() -> None:
    """Asks Linux for a SIGTERM when the parent dies; elsewhere does nothing."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    stop_with_parent()
    from scaling_jax.cli.main import entry

    entry()
