"""A real Slurm of one node on loopback, from Debian's packages: munged, slurmctld and slurmd, no accounting."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

import clusters

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")
PATH = f"/usr/sbin:/sbin:{os.environ['PATH']}"


def why_not() -> str:
    """Why no Slurm can be started here; empty when one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


@contextlib.contextmanager
def start(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """A Slurm with the partitions `low` (default) and `high`, which preempts `low`; yields its environment."""
    munge, state = folder / "munge", folder / "state"
    munge.mkdir(mode=0o700)
    state.mkdir()
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(_config(folder, munge / "socket", _free_port(), _free_port()))
    env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    files = [f"--{name}-file={munge / name}" for name in ("key", "log", "pid", "seed")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files],
        ["slurmctld", "-D", "-i", "-L", str(folder / "slurmctld.log")],
        ["slurmd", "-D", "-N", "localhost", "-L", str(folder / "slurmd.log")],
    ]
    with contextlib.ExitStack() as stack:
        for command in daemons:
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if command[0] == "munged":
                clusters.wait_for((munge / "socket").exists, "munged", process)
        idle = ["sinfo", "--noheader", "--format=%T", "--partition=low"]
        run = lambda: subprocess.run(idle, env=env, capture_output=True, text=True).stdout.strip()  # noqa: E731
        clusters.wait_for(lambda: run() == "idle", "the node to be idle", process)
        stack.callback(subprocess.run, ["scancel", "--me"], env=env, capture_output=True)
        yield env


def _config(folder: pathlib.Path, munge_socket: pathlib.Path, controller: int, daemon: int) -> str:
    return f"""
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
# A job that was queued again starts once its credential has expired; fewer than 5 seconds are 120.
AuthInfo=socket={munge_socket},cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
MaxArraySize=1001
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=localhost NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=localhost PriorityTier=10 PreemptMode=OFF
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def jobs(env: dict[str, str]) -> dict[str, str]:
    """ "12_0" -> state of every job of the queue."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T"]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\S+) (\S+)", out))
