"""Ray on loopback: a driver that is stopped, a raylet that is killed in the middle of a pack, what a task passes on."""

import os
import signal
import subprocess
import sys
import time

import clusters
import ladder
import pytest

from scaling_jax.engines import base
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.errors import Preempted, UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study_file import load_study, override

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; Ray reads it when it is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'scaling_jax[ray]'")

from scaling_jax.engines import ray_engine, ray_task  # noqa: E402


def fake_python(folder, monkeypatch, script):
    """Makes the engine's subprocess a shell script."""
    path = folder / "python"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(base.sys, "executable", str(path))


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_task_returns_the_exit_code(tmp_path, monkeypatch, code):
    fake_python(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/args; exit {code}')
    assert ray_task.train(["run", "--only_packs=w8-d1"]) == code
    assert (tmp_path / "args").read_text() == "-m scaling_jax run --only_packs=w8-d1\n"


@pytest.mark.parametrize("end", ["exit 75", "kill -TERM $$"])
def test_a_preempted_task_is_one_that_ray_repeats(tmp_path, monkeypatch, end):
    fake_python(tmp_path, monkeypatch, end)
    with pytest.raises(Preempted):
        ray_task.train([])


def test_a_cancelled_task_tells_its_pack_and_waits_for_it(tmp_path, monkeypatch):
    train = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 75' TERM; touch {tmp_path}/ready; sleep 60 & wait"
    fake_python(tmp_path, monkeypatch, train)
    sleep, cancelled = time.sleep, []

    def cancel_once(seconds):
        """As Ray's cancel: a KeyboardInterrupt between two steps of Python, with no signal."""
        sleep(seconds)
        if (tmp_path / "ready").exists() and not cancelled:
            cancelled.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", cancel_once)
    with pytest.raises(KeyboardInterrupt):
        ray_task.train([])
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_pack_is_told_when_its_worker_is_killed(tmp_path):
    child = (
        "import signal, sys, time; from scaling_jax.signals import stop_with_parent; stop_with_parent();"
        f"signal.signal(signal.SIGTERM, lambda *_: (open('{tmp_path}/told', 'w').close(), sys.exit(75)));"
        f"open('{tmp_path}/ready', 'w').close(); time.sleep(60)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]
    )
    clusters.wait_for((tmp_path / "ready").exists, "the child")
    worker.kill()
    worker.wait()
    clusters.wait_for((tmp_path / "told").exists, "SIGTERM to the child")


@pytest.mark.parametrize(
    "flags, what",
    [
        (("--engine_option=packs_per_gpu=0",), "packs_per_gpu=0"),
        (("--engine_option=--gpus=8",), "--gpus=8"),
        (("--only_packs=w9-d9",), "w16-d1"),
        ((), "pip install 'scaling_jax[ray]'"),
    ],
)
def test_wrong_input_is_one_line_before_anything_starts(tmp_path, monkeypatch, flags, what):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    command = clusters.command(tmp_path, tmp_path / "workdir", clusters.SHORT, "--engine=ray", *flags)
    code, _, said = ladder.run_here(*command[3:])
    assert code == 2
    assert what in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "workdir").exists()


class FakeCluster:
    """`ray.nodes()` of a cluster with these resources."""

    def __init__(self, *nodes):
        self._nodes = nodes

    def nodes(self):
        return [{"Alive": True, "Resources": node} for node in self._nodes]


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """What a pack of 3 lanes asks of a cluster: ask(*nodes, options=..., mesh=...) -> Ray's task options."""
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    study = load_study(ladder.write_study(tmp_path))

    def ask(*nodes, options=(), mesh=None, most=None):
        chosen = override(study, [f"execution.mesh={mesh}"])
        spec = Spec(kind="tokens", vocab_size=256, context=16)
        job = base.Job(make_plan(chosen, spec)[0], ("run",))
        if most is not None:
            monkeypatch.setattr(ray_engine, "PROCESS_BYTES", most)
        settings = base.Settings("tiny", chosen, spec, tmp_path, options, 9, False, StopSignal())
        cluster = FakeCluster(*nodes)
        request = ray_engine._resources(cluster, job, settings)
        return request, ray_engine._slots(cluster, job, settings), ray_engine._command(job, request)

    return ask


GIB = 2**30
HEALTH_CHECK = {"initial_delay_ms": 0, "period_ms": 500, "failure_threshold": 3}


def test_a_pack_asks_for_a_device_per_lane_as_far_as_a_node_goes(ask):
    roomy = {"CPU": 16.0, "memory": 64 * GIB}
    assert ask({}, roomy, roomy)[:2] == ({"num_cpus": 3}, 10)
    assert ask({"CPU": 2.0, "memory": 64 * GIB})[:2] == ({"num_cpus": 2}, 1)
    assert ask(roomy, {"CPU": 4.0, "GPU": 2.0})[:2] == ({"num_gpus": 2.0, "num_cpus": 1}, 1)
    assert ask({"CPU": 200.0, "TPU": 8.0})[:2] == ({"resources": {"TPU": 4}, "num_cpus": 1}, 2), "1, 2, 4 or 8 chips"
    assert ask({})[0] == {"num_cpus": 1}, "no node yet"


def test_a_pack_is_one_process_with_as_many_devices_as_it_got(ask):
    command = ask({"CPU": 16.0, "memory": 64 * GIB})[2]
    assert "--num_cpu_devices=3" in command and "--num_processes=1" in command
    command = ask({"CPU": 4.0, "GPU": 2.0})[2]
    assert not any(arg.startswith("--num_cpu_devices") for arg in command) and "--num_processes=1" in command


def test_memory_is_asked_for_where_it_is_scarce(ask):
    node = {"CPU": 16.0, "memory": 64 * GIB}
    request = ask(node, most=13 * GIB)[0]
    assert request["num_cpus"] == 3 and 13 * GIB < request["memory"] < 14 * GIB
    assert ask(node, most=900 * GIB)[0]["memory"] == 64 * GIB, "an estimate must not wait for ever"


def test_small_packs_share_a_gpu(ask):
    node = {"CPU": 4.0, "GPU": 1.0}
    assert ask(node, options=("packs_per_gpu=4",))[:2] == ({"num_gpus": 0.25, "num_cpus": 1}, 4)


def test_a_pack_of_many_hosts_is_refused(ask):
    with pytest.raises(UserError, match=r"wants 4 devices .* more than 2 GPU; --engine=slurm"):
        ask({"CPU": 4.0, "GPU": 2.0}, mesh="(1, 4, 1)")


@pytest.mark.slow
def test_dry_run_on_a_loopback_cluster_of_its_own(tmp_path):
    flags = ("--engine=ray", "--dry_run", "--set=optimizer.learning_rates=0.01")
    command = clusters.command(tmp_path, tmp_path / "workdir", clusters.SHORT, *flags)
    env = clusters.environment(tmp_path)
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=clusters.PATIENCE)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "--only_packs=" in line]
    assert [line.split(":")[0] for line in lines] == ["w16-d1", "w8-d1"], "longest first"
    assert "{'num_cpus': 1}" in lines[0]
    assert "--engine" not in lines[0]
    assert not (tmp_path / "workdir").exists()


@pytest.fixture
def cluster():
    """A head without cores, to which nodes are added; all on 127.0.0.1."""
    from ray.cluster_utils import Cluster

    # A node that is lost is noticed within two seconds, not fifteen.
    config = {f"health_check_{name}": value for name, value in HEALTH_CHECK.items()}
    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False, "_system_config": config}
    for left in (2, 1, 0):
        try:
            cluster = Cluster(initialize_head=True, head_node_args=head)
            break
        except Exception as error:  # Ray waits 30 seconds for its first node, which a busy machine may not keep
            if "timed out during startup" not in str(error) or not left:
                raise
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_stopped_driver_and_a_killed_raylet_lose_nothing(tmp_path, cluster):
    """The driver is stopped, started again, and then the node that trains is lost: losses are those of one calm run."""
    workdir, env = tmp_path / "ray", clusters.environment(tmp_path, RAY_ADDRESS=cluster.address)
    assert cluster.address.startswith("127.0.0.1:")
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    log = tmp_path / "driver.log"

    def start():
        with log.open("a") as out:
            command = clusters.command(tmp_path, workdir, clusters.LONG, "--engine=ray")
            return subprocess.Popen(command, env=env, stdout=out, stderr=out)

    clusters.slow(tmp_path).touch()
    driver = start()
    clusters.wait_for(lambda: clusters.checkpoints(workdir, "w16-d1"), "a checkpoint", driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(clusters.PATIENCE) == 75
    saved = clusters.checkpoints(workdir, "w16-d1")
    assert not clusters.losses(workdir), "stopped too late to show anything"

    driver = start()
    clusters.wait_for(lambda: clusters.checkpoints(workdir, "w16-d1") - saved, "a later checkpoint", driver)
    cluster.remove_node(node, allow_graceful=False)
    assert not clusters.losses(workdir), "killed too late to show anything"
    clusters.slow(tmp_path).unlink()
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    assert driver.wait(clusters.PATIENCE) == 0, log.read_text()

    assert clusters.attempts(workdir, "w16-d1") == 3
    assert clusters.attempts(workdir, "w8-d1") == 1, "a finished pack does not run twice"
    assert (workdir / "_SUCCESS").exists()
    assert sorted(clusters.losses(workdir).values()) == sorted(clusters.calm_losses().values()), "bit by bit"
