"""xpk: the manifests, through a fake that writes what xpk 1.16 does, and through xpk itself where it is installed."""

import os
import re
import shutil
import signal
import subprocess

import clusters
import ladder
import pytest
import yaml

OPTIONS = ("--cluster=c", "--project=p", "--zone=us-central1-a", "--docker-image=gcr.io/p/image", "--tpu-type=v6e-8")

# The parts of xpk's manifest that matter here, and its wrapper around the command word for word.
XPK = r"""#!/bin/bash
echo "$TELEMETRY_ENABLED $*" >> "$FAKE/calls"
[ -e "$FAKE/refuse" ] && { echo "[XPK] ERROR: no such TPU type" >&2; exit 1; }
for argument in "$@"; do
  case $argument in
    --workload=*) workload=${argument#*=} ;;
    --command=*) command=${argument#*=} ;;
    --output-manifest-file=*) manifest=${argument#*=} ;;
    --max-restarts=*) restarts=${argument#*=} ;;
    --restart-on-exit-codes=*) codes=${argument#*=} ;;
    --termination-grace-period-seconds=*) grace=${argument#*=} ;;
  esac
done
cat > "$manifest" <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $workload
  labels:
    kueue.x-k8s.io/queue-name: multislice-queue  # Name of the LocalQueue
    xpk.google.com/workload: $workload
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
    - name: slice-job
      replicas: 1
      template:
        spec:
          podFailurePolicy:
            rules:
            - action: FailJob
              onExitCodes:
                containerName: jax-tpu
                operator: NotIn
                values: [42,$codes,127,128,129,130]
          template:
            spec:
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: tpu-v6e-slice
              terminationGracePeriodSeconds: $grace
              containers:
              - name: jax-tpu
                command:
                - bash
                - -c
                - |
                  echo XPK Start: \$(date);
                  _sigterm() (kill -SIGTERM \$! 2>/dev/null;);
                  trap _sigterm SIGTERM;

                  ($command) & PID=\$!;
                  while kill -0 \$PID 2>/dev/null;
                      do sleep 5;
                  done;
                  wait \$PID;
                  EXIT_CODE=\$?;

                  echo XPK End: \$(date);
                  echo EXIT_CODE=\$EXIT_CODE;

                  exit \$EXIT_CODE
YAML
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `--engine=xpk` in an empty folder: run(*flags, options=...) -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.delenv("TELEMETRY_ENABLED", raising=False)

    def run(*flags, options=OPTIONS):
        given = [f"--engine_option={option}" for option in options]
        command = clusters.command(tmp_path, tmp_path / "workdir", clusters.SHORT, "--engine=xpk", *given, *flags)
        return ladder.run_here(*command[3:])

    return run


@pytest.fixture
def xpk(run, tmp_path, monkeypatch):
    """`run` with the fake on PATH."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "xpk"
    path.write_text(XPK)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return run


def manifests(folder):
    """(file name, JobSet) of every manifest, in the order in which kubectl applies them."""
    paths = sorted(folder.glob("scaling-jax-*-manifests/*.yaml"))
    return [(path.name, yaml.safe_load(path.read_text())) for path in paths]


def check(jobset, pack):
    """What a JobSet must say for a pack to be trained, preempted and trained on."""
    name = jobset["metadata"]["name"]
    assert jobset["kind"] == "JobSet" and jobset["apiVersion"].startswith("jobset.x-k8s.io/")
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 40 and name.endswith(pack)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 50
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    rule = job["podFailurePolicy"]["rules"][0]
    assert rule["onExitCodes"]["operator"] == "NotIn" and 75 in rule["onExitCodes"]["values"]
    assert not {0, 1, 2} & set(rule["onExitCodes"]["values"]), "what fails once fails again"
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    script = pod["containers"][0]["command"][-1]
    assert re.search(rf"exec scaling-jax run .*--only_packs={pack}\)", script)
    assert "--engine" not in script and "pack-name" not in script
    return script


def test_one_manifest_per_pack_longest_first(xpk, tmp_path):
    code, _, said = xpk("--max_retries=50")
    assert code == 0, said
    written = manifests(tmp_path)
    assert [name for name, _ in written] == ["00000-w16-d1.yaml", "00001-w8-d1.yaml"]
    for (_, jobset), pack in zip(written, ("w16-d1", "w8-d1")):
        check(jobset, pack)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("false workload create --dry-run"), "asked once, and reports nothing home"
    assert "kubectl apply -f" in said
    assert not (tmp_path / "workdir").exists()


def test_manifests_of_packs_that_are_done_go(xpk, tmp_path):
    assert xpk()[0] == 0
    assert xpk("--only_packs=w8-d1")[0] == 0
    assert [name for name, _ in manifests(tmp_path)] == ["00000-w8-d1.yaml"]


@pytest.mark.slow
def test_sigterm_reaches_the_command_through_xpks_wrapper(xpk, tmp_path):
    assert xpk("--max_retries=50")[0] == 0
    script = check(manifests(tmp_path)[0][1], "w16-d1")
    train = tmp_path / "bin" / "scaling-jax"
    train.write_text(f"#!/bin/bash\ntrap 'exit 75' TERM\ntouch {tmp_path}/training\nsleep 60 & wait\n")
    train.chmod(0o755)
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL)
    clusters.wait_for((tmp_path / "training").exists, "training", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(clusters.PATIENCE) == 75


@pytest.mark.parametrize("left_out", ["--cluster", "--project", "--zone", "--docker-image", "--tpu-type"])
def test_what_xpk_needs_is_said(xpk, left_out):
    code, _, said = xpk(options=[option for option in OPTIONS if not option.startswith(left_out)])
    assert code == 2
    assert f"--engine_option={left_out}=..." in said.splitlines()[-1]


def test_a_refusal_is_one_line(xpk, tmp_path):
    (tmp_path / "refuse").touch()
    code, _, said = xpk()
    assert code == 2
    assert said.splitlines()[-1] == "scaling-jax: xpk: [XPK] ERROR: no such TPU type"
    assert not manifests(tmp_path)


def test_dry_run_shows_the_call(xpk, tmp_path):
    code, shown, _ = xpk("--dry_run")
    assert code == 0 and shown.startswith("xpk workload create --dry-run")
    assert not (tmp_path / "calls").exists() and not manifests(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("xpk") is None, reason="xpk is not installed: pipx install xpk")
def test_xpk_itself(run, tmp_path):
    code, _, said = run("--max_retries=50")
    assert code == 0, said
    written = manifests(tmp_path)
    assert len(written) == 2
    for (_, jobset), pack in zip(written, ("w16-d1", "w8-d1")):
        check(jobset, pack)
