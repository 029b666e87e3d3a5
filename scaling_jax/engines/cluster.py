"""One training on several processes: started by flags, or where a cluster has started us together.

Each process of such a run is two: a supervisor without JAX, and its member. JAX ends a process whose peer is lost by
aborting it, with no way to intervene; the supervisor makes exit code 75 of that.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os
import signal
import subprocess
import sys
from typing import Any

from absl import logging

from scaling_jax import signals
from scaling_jax.errors import PREEMPTED, UserError

HEARTBEAT_SECONDS = 30  # after so long without a sign of life a process counts as lost
SHUTDOWN_SECONDS = 30
MEMBER = "SCALING_JAX_MEMBER"  # environment variable of a member: the process id of its supervisor
LOOPBACK = ("127.", "localhost:", "[::1]:")


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes that train together; all None where a cluster tells JAX about them.

    Attributes:
      coordinator_address: host:port of process 0.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def wanted(self) -> bool:
        """Returns True if this process is one of several.

        Raises:
          UserError: some of the values are missing or contradict each other.
        """
        given = dataclasses.asdict(self)
        missing = [f"--{name}" for name, value in given.items() if value is None]
        if self.coordinator_address is None or self.num_processes is None or self.process_id is None:
            if len(missing) == len(given):
                return _started_together()
            raise UserError(
                f"several processes train together with all of --{', --'.join(given)}; {missing[0]} is missing"
            )
        if self.process_id >= self.num_processes:
            raise UserError(f"--process_id={self.process_id} must be below --num_processes={self.num_processes}")
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UserError(
                f"--coordinator_address={self.coordinator_address!r} is not host:port with a port from 1 to 65535"
            )
        return self.num_processes > 1


def _surely_several() -> bool:
    """Returns True if Slurm, Open MPI or an indexed Kubernetes job says that there are others."""
    env = os.environ
    slurm = "SLURM_STEP_NODELIST" in env and _count("SLURM_STEP_NUM_TASKS", 1) > 1
    mpi = _count("OMPI_COMM_WORLD_SIZE", 1) > 1
    return slurm or mpi or ("KUBERNETES_SERVICE_HOST" in env and _count("JOB_COMPLETION_INDEX", 0) > 0)


def _count(variable: str, default: int) -> int:
    """An environment variable as a number.

    Raises:
      UserError: it is not one.
    """
    text = os.environ.get(variable, str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"the environment variable {variable}={text!r} is not a whole number; unset it") from None


def _started_together() -> bool:
    """Returns True if there are, or may be, others: the first pod of a Kubernetes job and a TPU host do not know."""
    first_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ
    tpu = importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
    return bool(_surely_several() or first_pod or tpu)


def is_member() -> bool:
    """Returns True if this process has a supervisor."""
    return os.environ.get(MEMBER) == str(os.getppid())


def supervise(arguments: list[str]) -> int:
    """Runs the command line in a member process; its exit code, or 75 when JAX ended it because a peer was lost."""
    env = signals.child_environment() | {MEMBER: str(os.getpid())}
    # A session of its own, or Ctrl-C in a terminal would reach it twice.
    member = subprocess.Popen([sys.executable, "-m", "scaling_jax", *arguments], env=env, start_new_session=True)
    for number in signals.SIGNALS:
        signal.signal(number, lambda number, frame: member.send_signal(number))
    code = member.wait()
    if code == -signal.SIGABRT:
        print(
            "scaling-jax: a process that trains with this one was lost; everything saved is intact: run the same "
            "command on all of them again",
            file=sys.stderr,
        )
        return PREEMPTED
    return code if code >= 0 else 1


def join(processes: Processes) -> None:
    """Joins the other processes; before JAX makes its devices.

    Raises:
      UserError: the cluster's description cannot be used.
    """
    import jax

    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    address = processes.coordinator_address
    if address is not None:
        bind = address if address.startswith(LOOPBACK) else None
        jax.distributed.initialize(
            address, processes.num_processes, processes.process_id, coordinator_bind_address=bind, **timeouts
        )
        return
    try:
        jax.distributed.initialize(**timeouts)
    except (ValueError, RuntimeError) as error:
        if _surely_several():  # each training alone would be as many trainings of the same
            raise UserError(
                f"this is one of several processes, but JAX cannot find the others ({error}); on Kubernetes "
                "pip install 'jax[k8s]', or give --coordinator_address, --num_processes and --process_id"
            ) from error
        logging.warning("this looks like one process of a cluster, but JAX cannot tell (%s): training alone", error)


def leave() -> None:
    """Ends the connection when every process has come here."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
