"""One training on several processes: started by flags, or where a cluster has started us together.

Each process of such a run is two: a supervisor without JAX, and its member. JAX ends a process whose peer is lost by
aborting it, with no way to intervene; the supervisor makes exit code 75 of that.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import signal
import subprocess
import sys
from typing import Any

from absl import flags, logging

from scaling_jax.errors import PREEMPTED, UserError

HEARTBEAT_SECONDS = 30  # after so long without a sign of life a process counts as lost
SHUTDOWN_SECONDS = 30
MEMBER = "scaling_jax.engines.member"
LOOPBACK = ("127.", "localhost:", "[::1]:")


def define_flags() -> None:
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0, when several processes train together.")
    flags.DEFINE_integer("num_processes", None, "How many processes train together.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


def wanted(values: Any) -> bool:
    """Whether this process is one of several.

    Raises:
      UserError: some of the flags are missing or contradict each other.
    """
    given = {name: values[name].value for name in ("coordinator_address", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return _started_together()
    if missing:
        raise UserError(f"several processes train together with all of --{', --'.join(given)}; {missing[0]} is missing")
    if given["process_id"] >= given["num_processes"]:
        raise UserError(f"--process_id={given['process_id']} must be below --num_processes={given['num_processes']}")
    host, _, port = given["coordinator_address"].rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator_address={given['coordinator_address']!r} is not host:port")
    return given["num_processes"] > 1


def _surely_several() -> bool:
    """Whether Slurm, Open MPI or an indexed Kubernetes job says that there are others."""
    env = os.environ
    slurm = "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    mpi = int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    return slurm or mpi or ("KUBERNETES_SERVICE_HOST" in env and int(env.get("JOB_COMPLETION_INDEX", 0)) > 0)


def _started_together() -> bool:
    """Whether there are others, or may be: the first pod of an indexed Kubernetes job and a TPU host do not know."""
    first_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ
    tpu = importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
    return bool(_surely_several() or first_pod or tpu)


def is_member() -> bool:
    """Whether this process has a supervisor."""
    return os.environ.get(MEMBER) == str(os.getppid())


def supervise(arguments: list[str]) -> int:
    """Runs the command line in a member process; its exit code, or 75 when JAX ended it because a peer was lost."""
    env = os.environ | {MEMBER: str(os.getpid())}
    # A session of its own, or Ctrl-C in a terminal would reach it twice.
    member = subprocess.Popen([sys.executable, "-m", MEMBER, *arguments], env=env, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: member.send_signal(number))
    code = member.wait()
    if code == -signal.SIGABRT:
        print(
            "scaling-jax: a process that trains with this one was lost; what was saved stands: run the same command "
            "on all of them again to go on",
            file=sys.stderr,
        )
        return PREEMPTED
    return code if code >= 0 else 1


def join(values: Any) -> None:
    """Joins the other processes; before JAX makes its devices.

    Raises:
      UserError: the cluster's description cannot be used.
    """
    import jax

    timeouts = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    address = values.coordinator_address
    if address is not None:
        bind = address if address.startswith(LOOPBACK) else None
        jax.distributed.initialize(
            address, values.num_processes, values.process_id, coordinator_bind_address=bind, **timeouts
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
