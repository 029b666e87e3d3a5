"""Ray on loopback: a driver that is stopped, a raylet that is killed in the middle of a pack, what a task passes on."""

import os
import signal
import subprocess
import sys

import clusters
import pytest

from scaling_jax.errors import Preempted

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; Ray reads it when it is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'scaling_jax[ray]'")

from scaling_jax.engines import ray_engine  # noqa: E402


def fake_python(folder, monkeypatch, script):
    """Makes the engine's subprocess a shell script."""
    path = folder / "python"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(ray_engine.sys, "executable", str(path))


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_task_returns_the_exit_code(tmp_path, monkeypatch, code):
    fake_python(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/args; exit {code}')
    assert ray_engine.train(["run", "--only_packs=w8-d1"]) == code
    assert (tmp_path / "args").read_text() == "-m scaling_jax.engines.child run --only_packs=w8-d1\n"


@pytest.mark.parametrize("end", ["exit 75", "kill -TERM $$"])
def test_a_preempted_task_is_one_that_ray_repeats(tmp_path, monkeypatch, end):
    fake_python(tmp_path, monkeypatch, end)
    with pytest.raises(Preempted):
        ray_engine.train([])


def test_a_cancelled_task_tells_its_pack_and_waits_for_it(tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, f"trap 'touch {tmp_path}/saved; exit 75' TERM; kill -INT $PPID; sleep 60 & wait")
    with pytest.raises(KeyboardInterrupt):
        ray_engine.train([])
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_pack_is_told_when_its_worker_is_killed(tmp_path):
    child = (
        "import signal, sys, time; from scaling_jax.engines.child import stop_with_parent; stop_with_parent();"
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

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
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
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    assert driver.wait(clusters.PATIENCE) == 0, log.read_text()

    assert clusters.attempts(workdir, "w16-d1") == 3
    assert clusters.attempts(workdir, "w8-d1") == 1, "a finished pack does not run twice"
    assert (workdir / "_SUCCESS").exists()
    assert sorted(clusters.losses(workdir).values()) == sorted(clusters.calm_losses().values()), "bit by bit"
