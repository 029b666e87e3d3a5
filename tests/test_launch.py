"""launch/: each script against a fake Google Cloud (or scaling-jax) on PATH that records calls and plays states."""

import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess

import clusters
import ladder
import pytest

from scaling_jax.cli.main import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))

# Plays the lines of `states`, the last one for ever. A state may bring something with it: ACTIVE+success.
GCLOUD = """#!/bin/bash
cd "$FAKE" || exit 99
echo "$*" >> calls
case "$*" in
  *queued-resources\\ describe*failedData*) echo "no capacity" ;;
  *queued-resources\\ describe*)
    line=$(head -n 1 states)
    [ "$(wc -l < states)" -gt 1 ] && sed -i 1d states
    case $line in
      *+success) touch success ;;
      *+failed:*) echo "${line##*:}" > failed ;;
    esac
    state=${line%%+*}
    case $state in
      NONE) echo "ERROR: (gcloud) NOT_FOUND: Resource not found" >&2; exit 1 ;;
      OFFLINE) echo "ERROR: There was a problem refreshing your current auth tokens" >&2; exit 1 ;;
    esac
    echo "$state" ;;
  *queued-resources\\ create*)
    all="$*"
    files=${all#*--metadata-from-file=startup-script=}
    [ -s "${files%%,*}" ] || exit 98
    cp "${files#*scaling-jax-flags=}" run.flags
    [ ! -e no_create ] ;;
  *queued-resources\\ delete*) [ ! -e no_delete ] ;;
  storage\\ ls*/_SUCCESS) [ -e success ] ;;
  storage\\ ls*/failed) [ -e failed ] ;;
  storage\\ cat*/failed) cat failed 2>/dev/null ;;
  storage\\ rm*/failed) rm -f failed ;;
  storage\\ cp*\\ -\\ *) cat > "$(basename "${*: -1}")" ;;
esac
"""


class Cloud:
    """The fake, in a folder of its own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.add("gcloud", GCLOUD)
        self.env = {**os.environ, "FAKE": str(folder), "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def add(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, *words: str) -> list[str]:
        """Calls of gcloud that hold all these words."""
        return [call for call in clusters.text(self.folder / "calls").splitlines() if all(w in call for w in words)]

    def command(self, *flags: str) -> list[str]:
        """`tpu_vm.sh run` of a small study."""
        return [
            str(LAUNCH / "tpu_vm.sh"),
            "run",
            "ladder",
            "--zone=us-east5-b",
            "--accelerator_type=v6e-8",
            "--runtime_version=v2-alpha-tpuv6e",
            "--workdir=gs://bucket/ladder/",
            "--poll_seconds=0.01",
            *flags,
            "--",
            "--study=experiments/text_quickstart.py",
            "--set=seeds=(0, 1)",
        ]

    def run(self, states: str, *flags: str) -> subprocess.CompletedProcess:
        """tpu_vm.sh while the cloud plays these states."""
        (self.folder / "states").write_text("".join(f"{state}\n" for state in states.split()))
        return subprocess.run(self.command(*flags), env=self.env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path / "cloud")


def test_through_a_preemption_to_the_end(cloud):
    done = cloud.run("NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE SUSPENDING SUSPENDED ACTIVE ACTIVE+success")
    assert done.returncode == 0, done.stderr
    creates = cloud.calls("queued-resources create ladder")
    assert len(creates) == 2
    assert all("--spot" in call and "--zone=us-east5-b" in call and "--node-id=ladder" in call for call in creates)
    deletes = cloud.calls("queued-resources delete ladder", "--force", "--quiet")
    assert len(deletes) == 2, "the suspended request, and the machine at the end"
    assert (cloud.folder / "run.flags").read_text() == "--study=experiments/text_quickstart.py\n--set=seeds=(0, 1)\n"
    metadata = re.search(r"--metadata=(\S+)", creates[0])[1]
    assert "scaling-jax-workdir=gs://bucket/ladder," in metadata
    assert "scaling-jax-launch=gs://bucket/ladder-launch," in metadata, "beside the workdir, not in it"
    assert len(cloud.calls("storage cp", "gs://bucket/ladder-launch/source.tar.gz")) == 1


def test_on_demand(cloud):
    assert cloud.run("NONE ACTIVE+success", "--on_demand", "--project=mine").returncode == 0
    (create,) = cloud.calls("queued-resources create")
    assert "--spot" not in create and "--project=mine" in create


def test_a_request_that_fails_three_times_is_given_up(cloud):
    done = cloud.run("NONE FAILED FAILED FAILED")
    assert done.returncode == 1
    assert "no capacity" in done.stderr and "3 times in a row" in done.stderr
    assert len(cloud.calls("create")) == 3
    assert len(cloud.calls("delete")) == 3, "nothing stays behind"


def test_failures_count_only_in_a_row(cloud):
    assert cloud.run("NONE FAILED FAILED ACTIVE SUSPENDED FAILED FAILED ACTIVE+success").returncode == 0


def test_a_request_that_cannot_be_made_is_given_up(cloud):
    (cloud.folder / "no_create").touch()
    assert cloud.run("NONE").returncode == 1
    assert len(cloud.calls("create")) == 3


@pytest.mark.parametrize("code, expected", [(1, 1), (2, 2)])
def test_a_study_that_fails_is_not_tried_again(cloud, code, expected):
    done = cloud.run(f"NONE ACTIVE ACTIVE+failed:{code}")
    assert done.returncode == expected
    assert "log.txt" in done.stderr
    assert len(cloud.calls("create")) == 1 and len(cloud.calls("delete")) == 1


def test_an_earlier_failure_is_forgotten(cloud):
    (cloud.folder / "failed").write_text("1")
    assert cloud.run("NONE ACTIVE+success").returncode == 0


def test_worker_0_has_torn_down_already(cloud):
    assert cloud.run("ACTIVE NONE+success").returncode == 0
    assert not cloud.calls("create") and not cloud.calls("delete")


def test_a_delete_that_comes_too_late_is_no_failure(cloud):
    (cloud.folder / "no_delete").touch()
    done = cloud.run("ACTIVE ACTIVE+success")
    assert done.returncode == 0
    assert "not deleted by this call" in done.stderr


def test_a_suspended_request_that_cannot_be_deleted_is_given_up(cloud):
    (cloud.folder / "no_delete").touch()
    assert cloud.run("ACTIVE SUSPENDED").returncode == 1
    assert len(cloud.calls("delete")) == 3 and not cloud.calls("create")


def test_an_unreachable_cloud_is_asked_again(cloud):
    done = cloud.run("ACTIVE OFFLINE OFFLINE OFFLINE OFFLINE ACTIVE+success")
    assert done.returncode == 0
    assert "UNKNOWN" in done.stderr and "refreshing" in done.stderr
    assert not cloud.calls("create")


def test_whoever_follows_may_stop_and_come_back(cloud):
    (cloud.folder / "states").write_text("NONE\nACTIVE\n")
    process = subprocess.Popen(cloud.command(), env=cloud.env, stderr=subprocess.PIPE, text=True)
    clusters.wait_for(lambda: len(cloud.calls("describe")) > 3, "the follower", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=clusters.PATIENCE)
    assert process.returncode == 130 and "ladder goes on" in said
    assert not cloud.calls("delete")
    assert cloud.run("ACTIVE ACTIVE+success").returncode == 0
    assert len(cloud.calls("create")) == 1, "the machine that goes on is the one that is followed"


@pytest.mark.parametrize(
    "arguments, what",
    [
        (["run", "Ladder"], "lower-case"),
        (["run", "ladder"], "--zone"),
        (["run", "ladder", "--zone=z", "--workdir=/tmp/w"], "gs://"),
        (["run", "ladder", "--zone=z", "--workdir=gs://b/w"], "--accelerator_type"),
        (["run", "l", "--zone=z", "--workdir=gs://b/w", "--accelerator_type=v6e-8"], "--runtime_version"),
        (
            ["run", "l", "--zone=z", "--workdir=gs://b/w", "--accelerator_type=tpu7x-8", "--runtime_version=r"],
            "jobset.md",
        ),
        (["run", "l", "--zone=z", "--workdir=gs://b/w", "--accelerator_type=v6e-8", "--runtime_version=r"], "--study"),
        (["run", "ladder", "--zon=z"], "--zon=z"),
        (["run", "ladder", "--zone=z", "--workdir=gs://b/w,ssh-keys=x"], "gs://b/w,ssh-keys=x"),
        (["run", "ladder", "--zone=z,startup-script=x", "--workdir=gs://b/w"], "z,startup-script=x"),
        (["run", "ladder", "--zone=z", "--workdir=gs://b/w x"], "gs://b/w x"),
        (["destroy", "ladder"], "destroy"),
        (["delete"], "a name"),
    ],
)
def test_wrong_input_is_one_line(cloud, arguments, what):
    done = subprocess.run([LAUNCH / "tpu_vm.sh", *arguments], env=cloud.env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("tpu_vm.sh: ") and what in done.stderr and done.stderr.count("\n") == 1
    assert not cloud.calls()


@pytest.mark.parametrize(
    "script, arguments, shows",
    [
        ("tpu_vm.sh", None, "gcloud compute tpus queued-resources create ladder"),
        ("tpu_vm.sh", ["delete", "ladder", "--zone=z", "--dry_run"], "+ gcloud compute tpus queued-resources delete"),
        ("tpu_vm.sh", ["status", "ladder", "--zone=z", "--dry_run"], "+ gcloud compute tpus queued-resources describe"),
        ("tpu_vm.sh", ["logs", "ladder", "--zone=z", "--dry_run"], "+ gcloud compute tpus tpu-vm ssh ladder"),
        ("startup.sh", ["--dry_run"], "scaling-jax run --flagfile="),
        ("gpu_box.sh", ["--dry_run", "--", "--study=a.py"], "scaling-jax run --study=a.py"),
        ("gpu_box.sh", ["--mps=4", "--dry_run", "--", "--study=a.py"], "packs_per_gpu=4"),
        ("slurm_array.sbatch", ["--dry_run", "w8-d1", "train"], "train --only_packs=w8-d1"),
        ("slurm_array.sbatch", ["--dry_run", "w8-d1", "a b", "$(c)"], r"a\ b \$\(c\) --only_packs=w8-d1"),
    ],
)
def test_dry_run_shows_and_does_nothing(cloud, script, arguments, shows):
    command = cloud.command("--dry_run") if arguments is None else [LAUNCH / script, *arguments]
    done = subprocess.run(["bash", *map(str, command)], env=cloud.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert not cloud.calls()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="not installed: apt-get install shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# startup.sh, on a machine whose metadata, installer and scaling-jax are fake.
CURL = """#!/bin/bash
case "$*" in
  *scaling-jax-workdir) echo gs://bucket/ladder ;;
  *scaling-jax-launch) echo gs://bucket/ladder-launch ;;
  *scaling-jax-name) echo ladder ;;
  *scaling-jax-zone) echo us-east5-b ;;
  *scaling-jax-flags) echo "--study=experiments/text_quickstart.py" ;;
  *agent-worker-number) echo "$WORKER" ;;
  *) exit 22 ;;
esac
"""
# Plays the exit codes of the file `codes`, and writes down how it was called.
TRAIN = """#!/bin/bash
echo "$* cache=$JAX_COMPILATION_CACHE_DIR share=$XLA_PYTHON_CLIENT_MEM_FRACTION" >> "$FAKE/trained"
code=$(head -n 1 "$FAKE/codes")
sed -i 1d "$FAKE/codes"
[ "$code" != wait ] && exit "$code"
trap 'touch "$FAKE/saved"; exit 75' TERM
touch "$FAKE/training"
sleep 60 & wait
"""
# `pip install uv` and `uv` itself: what the machine has afterwards is a scaling-jax.
PYTHON = """#!/bin/bash
echo "python3 $*" >> "$FAKE/calls"
case "$*" in
  *"uv pip install"*)
    [ -e "$FAKE/no_network" ] && exit 1
    mkdir -p "$SCALING_JAX_HOME/venv/bin" && cp "$FAKE/bin/train" "$SCALING_JAX_HOME/venv/bin/scaling-jax" ;;
esac
"""


@pytest.fixture
def machine(cloud):
    cloud.add("curl", CURL)
    cloud.add("train", TRAIN)
    cloud.add("python3", PYTHON)
    cloud.add("tar", "#!/bin/bash\n")
    cloud.add("journalctl", "#!/bin/bash\necho the log\n")
    cloud.add("systemd-run", '#!/bin/bash\necho "systemd-run $*" >> "$FAKE/calls"\n')
    cloud.env |= {"SCALING_JAX_HOME": str(cloud.folder / "home"), "SCALING_JAX_RETRY_SECONDS": "0", "WORKER": "0"}
    return cloud


def boot(machine, codes: str, **env: str) -> subprocess.CompletedProcess:
    (machine.folder / "codes").write_text("".join(f"{code}\n" for code in codes.split()))
    command = ["bash", LAUNCH / "startup.sh", "--now"]
    return subprocess.run(command, env={**machine.env, **env}, capture_output=True, text=True, timeout=120)


def starts(machine) -> list[str]:
    return clusters.text(machine.folder / "trained").splitlines()


def test_startup_makes_itself_a_unit_that_is_told_of_a_shutdown(machine):
    subprocess.run(["bash", LAUNCH / "startup.sh"], env=machine.env, check=True)
    (call,) = machine.calls("systemd-run")
    assert "--property=TimeoutStopSec=90" in call and call.endswith("startup.sh --now")
    assert not starts(machine)


def test_startup_trains_again_after_75_and_tears_down(machine):
    done = boot(machine, "75 75 0")
    assert done.returncode == 0, done.stderr
    assert len(starts(machine)) == 3
    assert "--workdir=gs://bucket/ladder cache=gs://bucket/ladder-launch/xla_cache" in starts(machine)[0]
    assert len(machine.calls("uv pip install")) == 1, "installed once"
    assert len(machine.calls("queued-resources delete ladder --zone=us-east5-b")) == 1
    assert not (machine.folder / "failed").exists()


def test_only_worker_0_tears_down(machine):
    assert boot(machine, "0", WORKER="1").returncode == 0
    assert len(starts(machine)) == 1
    assert not machine.calls("delete")


def test_what_one_worker_gives_up_ends_all(machine):
    """Worker 1 fails where the others only see a lost peer: they do not wait for it for ever."""
    assert boot(machine, "2", WORKER="1").returncode == 0
    assert (machine.folder / "failed").read_text() == "2\n"
    assert not machine.calls("delete")
    assert boot(machine, "75 75 0", WORKER="0").returncode == 0
    assert len(starts(machine)) == 2, "once each"
    assert (machine.folder / "failed").read_text() == "2\n", "what went wrong, not that a peer was lost"
    assert len(machine.calls("delete ladder")) == 1


@pytest.mark.parametrize("codes, tried, last", [("1 1 1", 3, 1), ("75 1 75 137 1", 5, 1), ("2", 1, 2)])
def test_startup_gives_up_and_says_so(machine, codes, tried, last):
    assert boot(machine, codes).returncode == 0
    assert len(starts(machine)) == tried
    assert (machine.folder / "failed").read_text() == f"{last}\n"
    assert (machine.folder / "log.txt").read_text() == "the log\n"
    assert len(machine.calls("delete ladder")) == 1, "a machine that has nothing to do costs nothing"


def test_startup_gives_up_when_it_cannot_install(machine):
    (machine.folder / "no_network").touch()
    assert boot(machine, "0").returncode == 0
    assert not starts(machine)
    assert len(machine.calls("uv pip install")) == 3
    assert (machine.folder / "failed").read_text() == "1\n"
    assert len(machine.calls("delete ladder")) == 1


def test_startup_told_to_stop_saves_and_leaves_the_rest_to_the_next_machine(machine):
    (machine.folder / "codes").write_text("wait\n")
    process = subprocess.Popen(["bash", LAUNCH / "startup.sh", "--now"], env=machine.env, stdout=subprocess.DEVNULL)
    clusters.wait_for((machine.folder / "training").exists, "training", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(clusters.PATIENCE) == 0
    assert (machine.folder / "saved").exists()
    assert len(starts(machine)) == 1
    assert not machine.calls("delete") and not (machine.folder / "failed").exists()


# gpu_box.sh


@pytest.mark.parametrize("codes, expected", [("0", 0), ("75 75 0", 0), ("75 1", 1), ("2", 2)])
def test_gpu_box_goes_on_after_75(cloud, codes, expected):
    cloud.add("scaling-jax", TRAIN)
    (cloud.folder / "codes").write_text("".join(f"{code}\n" for code in codes.split()))
    done = subprocess.run(["bash", LAUNCH / "gpu_box.sh", "--", "--study=a.py"], env=cloud.env, timeout=120)
    assert done.returncode == expected
    assert len(starts(cloud)) == len(codes.split())


def test_gpu_box_told_to_stop_saves_and_stops(cloud):
    cloud.add("scaling-jax", TRAIN)
    (cloud.folder / "codes").write_text("wait\n0\n")
    process = subprocess.Popen(["bash", LAUNCH / "gpu_box.sh", "--", "--study=a.py"], env=cloud.env)
    clusters.wait_for((cloud.folder / "training").exists, "training", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(clusters.PATIENCE) == 75
    assert (cloud.folder / "saved").exists() and len(starts(cloud)) == 1


def test_gpu_box_with_mps_starts_and_stops_the_service(cloud):
    cloud.add("scaling-jax", TRAIN)
    cloud.add(
        "nvidia-cuda-mps-control", '#!/bin/bash\n[ "$1" = -d ] || read -r word\necho "mps $1$word" >> "$FAKE/calls"\n'
    )
    (cloud.folder / "codes").write_text("0\n")
    command = ["bash", LAUNCH / "gpu_box.sh", "--mps=2", "--", "--study=a.py"]
    assert subprocess.run(command, env=cloud.env, timeout=120).returncode == 0
    assert cloud.calls() == ["mps -d", "mps quit"]
    assert "--engine=ray --engine_option=packs_per_gpu=2" in starts(cloud)[0]
    assert "share=0.45" in starts(cloud)[0], "JAX takes most of a GPU for itself unless it is told not to"


def test_what_the_guides_call_exists():
    """Files, commands and flags that launch/ and docs/clusters.md speak of."""
    text = "\n".join(path.read_text() for path in [*LAUNCH.glob("*.md"), ROOT / "docs" / "clusters.md"])
    for name in set(re.findall(r"(?<![\w/.])(?:launch|experiments|docs)/[\w./]+\w", text)):
        assert (ROOT / name).exists(), name
    for command in set(re.findall(r"scaling-jax (\w+) --", text)):
        assert command in COMMANDS, command
    _, help_text, _ = ladder.run_here("run", "--help")
    for flag in ("engine", "only_packs", "engine_option", "max_retries", "dry_run"):
        assert f"--{flag}" in text or f"--[no]{flag}" in text, f"--{flag} is not explained"
        assert flag in help_text, f"--{flag} is not in the help"
