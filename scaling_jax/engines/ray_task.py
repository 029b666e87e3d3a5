"""What a Ray worker runs: it imports no JAX, as the pack is a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from scaling_jax import signals
from scaling_jax.errors import PREEMPTED, Preempted

POLL_SECONDS = 0.2
STOP_SECONDS = 90.0  # a pack that is asked to stop has this long to save


def train(command: Sequence[str]) -> int:
    """Runs on a worker: the command, until it ends by itself or the task is cancelled; returns its exit code.

    Raises:
      Preempted: the command was asked to stop and has saved; Ray then starts the task again, here or elsewhere.
    """
    process = subprocess.Popen([sys.executable, "-m", "scaling_jax", *command], env=signals.child_environment())
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)  # Ray's cancel is not a signal: it does not end a wait in the kernel
    except BaseException:  # cancelled: a KeyboardInterrupt
        process.terminate()
        process.wait(STOP_SECONDS)
        raise
    if code in (PREEMPTED, -signal.SIGTERM):  # or stopped before its handler was set
        raise Preempted("saved")
    return code
