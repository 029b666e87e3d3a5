"""Several processes over loopback train what one trains; any may be stopped or killed, and more or fewer go on."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import ladder
import numpy as np
import pandas as pd
import pytest

from scaling_jax import cli
from scaling_jax.engines import cluster

BATCH = 64 * 16  # tokens
# One scale and two lanes, so that two devices hold a lane each; long enough to be interrupted, with rates and a batch
# that do not blow up the rounding of sums in another order.
OPTIONS = (
    "--set=ladder.widths=8",
    "--set=optimizer.learning_rates=(0.002,0.005)",
    "--set=optimizer.batch_size=64",
    f"--set=budgets.tokens=({150 * BATCH},{450 * BATCH})",
    "--set=execution.dispatch_seconds=0.05",
    "--set=execution.checkpoint_seconds=0.3",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gang:
    """One run on `count` processes with a CPU device each."""

    def __init__(self, home: pathlib.Path, workdir: pathlib.Path, count: int, *options: str, devices: int = 1):
        self.logs = [home / f"{workdir.name}-{count}-{i}.log" for i in range(count)]
        port = free_port()
        common = ["run", f"--study={home / 'tiny.py'}", f"--workdir={workdir}", f"--num_cpu_devices={devices}"]
        self.processes = []
        for i, log in enumerate(self.logs):
            member = [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={i}"]
            with open(log, "w") as file:
                command = [*common, *OPTIONS, *options, *(member if count > 1 else ())]
                command = [sys.executable, "-m", "scaling_jax", *command]
                self.processes.append(subprocess.Popen(command, stdout=file, stderr=file))

    def said(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in self.logs)

    def wait_for_training(self) -> None:
        while all(p.poll() is None for p in self.processes) and "] w8-d1" not in self.logs[0].read_text():
            time.sleep(0.05)

    def member(self, i: int) -> int:
        """Process id of what process i supervises."""
        pid = self.processes[i].pid
        return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def codes(self) -> list[int]:
        return [process.wait() for process in self.processes]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    ladder.write_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        yield folder


def train(home, workdir, count, *options, **kwargs) -> pd.DataFrame:
    gang = Gang(home, workdir, count, *options, **kwargs)
    assert gang.codes() == [0] * count, gang.said()
    return ladder.table(workdir)


@pytest.fixture(scope="module")
def alone(home):
    """The table of one process with two devices."""
    table = train(home, home / "alone", 1, devices=2)
    assert len(table) == 4
    assert (table["status"] == "done").all()
    return table


@pytest.mark.slow
def test_lanes_on_two_processes_are_those_of_one_bit_by_bit_through_kills(home, alone):
    workdir = home / "killed"
    for victim in (1, 0):
        gang = Gang(home, workdir, 2)
        gang.wait_for_training()
        os.kill(gang.member(victim), signal.SIGKILL)
        begin = time.monotonic()
        codes = gang.codes()
        assert codes[victim] == 1, gang.said()
        assert codes[1 - victim] == 75, gang.said()
        assert time.monotonic() - begin < 60
        assert "was lost" in gang.logs[1 - victim].read_text()
    pd.testing.assert_frame_equal(train(home, workdir, 2), alone, check_exact=True)


@pytest.mark.slow
def test_two_then_one_then_four_processes(home, alone):
    workdir = home / "resized"
    gang = Gang(home, workdir, 2)
    gang.wait_for_training()
    gang.processes[1].send_signal(signal.SIGINT)
    assert gang.codes() == [75, 75], gang.said()
    gang = Gang(home, workdir, 1)
    gang.wait_for_training()
    gang.processes[0].send_signal(signal.SIGTERM)
    assert gang.codes() == [75], gang.said()
    table = train(home, workdir, 4)  # two lanes, each on two devices that share its batch
    np.testing.assert_allclose(table["loss"], alone["loss"], rtol=1e-5)
    assert list(table["run_id"]) == list(alone["run_id"])


@pytest.mark.slow
def test_parameters_split_over_processes(home, alone):
    table = train(home, home / "fsdp", 2, "--set=execution.mesh=(1,1,2)")
    np.testing.assert_allclose(table["loss"], alone["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--coordinator_address=h:1"], "--num_processes is missing"),
        (["--num_processes=2", "--process_id=0"], "--coordinator_address is missing"),
        (["--coordinator_address=h:1", "--num_processes=2", "--process_id=2"], "must be below"),
        (["--coordinator_address=host", "--num_processes=2", "--process_id=1"], "not host:port"),
        (["--coordinator_address=h:1", "--num_processes=0", "--process_id=1"], "num_processes"),
    ],
)
def test_wrong_flags_are_one_line(home, args, match):
    code, _, err = ladder.run_here("run", f"--study={home / 'tiny.py'}", f"--workdir={home / 'new'}", *args)
    assert code == 2
    assert match in err
    assert err.count("\n") == 1
    assert not (home / "new").exists()


def wanted(monkeypatch, **environ):
    """Whether an environment says that this is one of several processes."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return cluster._started_together()


def test_clusters_are_recognised(monkeypatch):
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]"}
    assert not wanted(monkeypatch)
    assert wanted(monkeypatch, **slurm, SLURM_STEP_NUM_TASKS="2")
    assert not wanted(monkeypatch, **slurm, SLURM_STEP_NUM_TASKS="1")
    assert not wanted(monkeypatch, SLURM_JOB_ID="7", SLURM_NTASKS="4")  # the batch script itself, not a step
    assert wanted(monkeypatch, OMPI_COMM_WORLD_SIZE="2")
    assert wanted(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX="0")
    assert not wanted(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1")  # any pod


def test_one_process_needs_no_supervisor(home, monkeypatch):
    monkeypatch.setattr(cluster, "supervise", lambda argv: pytest.fail("supervised"))
    flags = ["--coordinator_address=127.0.0.1:1", "--num_processes=1", "--process_id=0"]
    assert ladder.run_here("run", "--study=none.py", *flags)[0] == cli.USER_ERROR
