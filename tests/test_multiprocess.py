"""Several processes over loopback train what one trains; any may be stopped or killed, and more or fewer go on."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import ladder
import numpy as np
import pandas as pd
import pytest
from packs import SPEC, make_study

from scaling_jax.engines import cluster, local
from scaling_jax.errors import USER_ERROR, UserError
from scaling_jax.planning import make_plan
from scaling_jax.training import distributed

pytestmark = pytest.mark.slow

BATCH = 64 * 16  # tokens
# One scale and two lanes, so that two devices hold a lane each; rates and a batch that do not blow up the rounding of
# sums in another order. A save after every few steps leaves time to interrupt.
OPTIONS = (
    "--set=ladder.widths=8",
    "--set=optimizer.learning_rates=(0.002,0.005)",
    "--set=optimizer.batch_size=64",
    f"--set=budgets.tokens=({30 * BATCH},{90 * BATCH})",
    "--set=execution.dispatch_seconds=0.005",
    "--set=execution.checkpoint_seconds=0.005",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gang:
    """One run on `count` processes with a CPU device each; the last one may be given `different` flags."""

    def __init__(self, home, workdir: pathlib.Path, count: int, *options: str, devices=1, different=()):
        self.logs = [home / f"{workdir.name}-{count}-{i}.log" for i in range(count)]
        port = free_port()
        common = ["run", f"--study={home / 'tiny.py'}", f"--workdir={workdir}", f"--num_cpu_devices={devices}"]
        self.processes = []
        for i, log in enumerate(self.logs):
            member = [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={i}"]
            with open(log, "w") as file:
                command = [*common, *OPTIONS, *options, *(member if count > 1 else ())]
                command += different if i == count - 1 else ()
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

    def stop(self, i: int, number: int) -> None:
        """Signals process i: all save at the same step, and exit 75."""
        self.processes[i].send_signal(number)
        assert set(self.codes()) == {75}, self.said()
        ended = r"saved at step \d+ of its \w+|everything finished so far is saved"  # the latter between two pieces
        saved = {re.search(ended, log.read_text())[0] for log in self.logs}
        assert len(saved) == 1, self.said()

    def codes(self) -> list[int]:
        return [process.wait() for process in self.processes]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    study = ladder.write_study(folder)
    study.write_text(study.read_text() + ladder.NO_REPORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        yield folder


def train(home, workdir, count, *options, **kwargs) -> pd.DataFrame:
    """The table of a run that nobody interrupts, and so has few saves."""
    gang = Gang(home, workdir, count, "--set=execution.checkpoint_seconds=60", *options, **kwargs)
    assert gang.codes() == [0] * count, gang.said()
    return ladder.table(workdir)


@pytest.fixture(scope="module")
def alone(home):
    """The table of one process with two devices."""
    table = train(home, home / "alone", 1, devices=2)
    assert len(table) == 4
    assert (table["status"] == "done").all()
    return table


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
    gang = Gang(home, workdir, 2)
    gang.wait_for_training()
    gang.stop(0, signal.SIGTERM)
    pd.testing.assert_frame_equal(train(home, workdir, 2), alone, check_exact=True)


def test_two_then_one_then_four_processes(home, alone):
    """Parameters split over two processes, then whole on one, then batch and parameters over four, streamed."""
    workdir = home / "resized"
    gang = Gang(home, workdir, 2, "--set=execution.mesh=(1,1,2)")
    gang.wait_for_training()
    gang.stop(1, signal.SIGTERM)
    gang = Gang(home, workdir, 1)
    gang.wait_for_training()
    gang.stop(0, signal.SIGINT)
    table = train(home, workdir, 4, "--set=execution.mesh=(1,2,2)", "--set=execution.feed=stream")
    np.testing.assert_allclose(table["loss"], alone["loss"], rtol=1e-5)
    assert list(table["run_id"]) == list(alone["run_id"])
    told = sorted(path for path in (workdir / "attempts").iterdir() if path.name.count(".") == 1)
    attempts = [json.loads(path.read_text())["command"] for path in told]
    assert len(attempts) == 3, "one process of each gang writes"
    assert "--process_id=0" in attempts[0] and "--process_id=0" in attempts[2]


def test_several_processes_take_all_devices(monkeypatch):
    """What lanes do not fill splits the batch, where it divides; a process alone leaves devices to the next pack."""
    study = make_study(rates=(0.01, 0.02))
    (pack,) = make_plan(study, SPEC)
    assert local.mesh_shape(pack, study, 8) == (2, 1, 1)
    monkeypatch.setattr(distributed, "is_single_process", lambda: False)
    assert local.mesh_shape(pack, study, 2) == (2, 1, 1)
    assert local.mesh_shape(pack, study, 8) == (2, 4, 1)
    assert local.mesh_shape(pack, study, 16) == (16, 1, 1), "4 rows do not divide over 8 devices"
    assert local.mesh_shape(pack, study, 3) == (3, 1, 1)


def test_processes_that_came_with_different_flags_are_refused(home):
    gang = Gang(home, home / "different", 2, different=("--set=seeds=(5,)",))
    assert gang.codes() == [2, 2], gang.said()
    assert all("the study or its flags differs" in log.read_text() for log in gang.logs), gang.said()
    assert not (home / "different").exists()


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
    """Returns True if an environment says that this is one of several processes."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return cluster._started_together()


def test_clusters_are_recognized(monkeypatch):
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]"}
    assert not wanted(monkeypatch)
    assert wanted(monkeypatch, **slurm, SLURM_STEP_NUM_TASKS="2")
    assert not wanted(monkeypatch, **slurm, SLURM_STEP_NUM_TASKS="1")
    assert not wanted(monkeypatch, SLURM_JOB_ID="7", SLURM_NTASKS="4")  # the batch script itself, not a step
    assert wanted(monkeypatch, OMPI_COMM_WORLD_SIZE="2")
    assert wanted(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX="0")
    assert not wanted(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1")  # any pod


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_process_that_cannot_find_the_others_does_not_train_alone(monkeypatch, index):
    """Kubernetes without the package that JAX asks for its pods: the second knows that there is a first."""
    assert wanted(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX=index)

    def initialize(**timeouts):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    if index == "0":
        cluster.join(cluster.Processes())
    else:
        with pytest.raises(UserError, match=r"cannot find the others .*jax\[k8s\]"):
            cluster.join(cluster.Processes())


def test_one_process_needs_no_supervisor(home, monkeypatch):
    monkeypatch.setattr(cluster, "supervise", lambda argv: pytest.fail("supervised"))
    flags = ["--coordinator_address=127.0.0.1:1", "--num_processes=1", "--process_id=0"]
    assert ladder.run_here("run", "--study=none.py", *flags)[0] == USER_ERROR
