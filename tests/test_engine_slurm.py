"""Slurm: what is submitted, what the array script does with exit codes, and a real one-node Slurm that preempts."""

import os
import pathlib
import shlex
import signal
import subprocess

import clusters
import ladder
import pytest
import slurm_node

SCRIPT = pathlib.Path(__file__).parents[1] / "launch" / "slurm_array.sbatch"


def fake_programs(folder, **scripts):
    """A PATH whose programs are these shell scripts; each first writes down how it was called."""
    folder.mkdir()
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/calls\n{script}\n')
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Runs `--engine=slurm` beside fake programs: submit(programs, *flags) -> (exit code, stdout, stderr)."""
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))

    def submit(programs, *flags):
        monkeypatch.setenv("PATH", fake_programs(tmp_path / "bin", **programs)["PATH"])
        command = clusters.command(tmp_path, tmp_path / "workdir", clusters.SHORT, "--engine=slurm", *flags)
        return ladder.run_here(*command[3:])

    return submit


def test_dry_run_prints_the_submission_and_needs_no_slurm(submit, tmp_path):
    code, shown, said = submit({}, "--dry_run", "--engine_option=--partition=gpu", "--engine_option=--gpus=8")
    assert code == 0, said
    words = shlex.split(shown)
    assert words[0] == "sbatch" and "--array=0-1" in words
    assert "--partition=gpu" in words and "--gpus=8" in words
    assert words[words.index("w16-d1,w8-d1") - 1].endswith("slurm_array.sbatch"), "longest first"
    assert f"--workdir={tmp_path / 'workdir'}" in words
    assert not any(word.startswith(("--engine", "--dry_run", "--only_packs")) for word in words)
    assert not (tmp_path / "workdir").exists()


def test_a_job_inherits_what_was_given_also_from_a_flag_file(submit, tmp_path):
    file = tmp_path / "more.flags"
    file.write_text("--set=seeds=(0, 1)\n--set=data.context=32\n--verbosity=1\n")
    code, shown, said = submit({}, "--dry_run", f"--flagfile={file}")
    assert code == 0, said
    words = shlex.split(shown)
    assert [words.count(word) for word in ("--set=seeds=(0, 1)", "--set=data.context=32", "--verbosity=1")] == [1, 1, 1]
    assert words.count(f"--set={clusters.SHORT[0]}") == 1


def test_submits_in_arrays_that_the_cluster_takes(submit, tmp_path):
    code, _, said = submit({"sbatch": "echo 7", "squeue": "", "scontrol": "echo 'MaxArraySize = 2'"})
    assert code == 0, said
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    assert [call.count("--array=0-0") for call in calls if call.startswith("sbatch")] == [1, 1]


def test_what_is_queued_is_not_submitted_twice(submit, tmp_path):
    code, _, said = submit({"sbatch": "", "squeue": "printf 'RUNNING\\nPENDING\\n'", "scontrol": ""})
    assert code == 0 and "1 running, 1 pending; nothing submitted" in said
    assert "sbatch" not in (tmp_path / "bin" / "calls").read_text()


def test_a_refusal_is_one_line(submit):
    refuse = "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1"
    code, _, said = submit({"sbatch": refuse, "squeue": "", "scontrol": ""})
    assert code == 2
    assert "invalid partition" in said.splitlines()[-1] and "Traceback" not in said


# Without its own options srun is the program that it starts.
SRUN = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'


@pytest.mark.parametrize("restarts", [0, 5])
@pytest.mark.parametrize("code", [0, 1, 2, 75, 143])
def test_the_array_script_queues_again_what_was_preempted(tmp_path, code, restarts):
    env = fake_programs(tmp_path / "bin", srun=SRUN, train=f"exit {code}", scontrol="")
    env |= {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "9", "SLURM_RESTART_COUNT": str(restarts)}
    env["SCALING_JAX_MAX_RESTARTS"] = "5"
    done = subprocess.run(["bash", SCRIPT, "a,b,c", "train", "--x=y z"], env=env)
    assert done.returncode == code
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    again = code in (75, 143) and restarts < 5
    assert calls[1:] == ["train --x=y z --only_packs=b", *["scontrol requeue 9_1"] * again]


@pytest.mark.parametrize("nodes", [1, 4])
def test_the_array_script_tells_the_step_and_waits_for_it(tmp_path, nodes):
    srun = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 75' USR1; echo $$ > {tmp_path}/pid; sleep 60 & wait"
    env = fake_programs(tmp_path / "bin", srun=srun, scancel=f"kill -USR1 $(cat {tmp_path}/pid)", scontrol="")
    env |= {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "9", "SLURM_JOB_ID": "12"}
    env["SLURM_JOB_NUM_NODES"] = str(nodes)
    process = subprocess.Popen(["bash", SCRIPT, "a", "train"], env=env)
    clusters.wait_for(lambda: clusters.text(tmp_path / "pid").endswith("\n"), "the step", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(clusters.PATIENCE) == 75
    assert (tmp_path / "saved").exists()
    assert clusters.text(tmp_path / "bin" / "calls").splitlines() == [
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=0 train --only_packs=a",
        "scancel --signal=TERM 12",
        "scontrol requeue 9_0",
    ]


def test_the_array_script_shows_what_it_would_do(tmp_path):
    done = subprocess.run(["bash", SCRIPT, "--dry_run", "a,b", "train"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--array=0-1" in done.stdout and "[1] train --only_packs=b" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm_node.why_not()), reason=slurm_node.why_not())
def test_a_real_slurm_preempts_queues_again_and_finishes(tmp_path):
    """One core, two packs, and a job of a higher partition that takes the core away in the middle of the first."""
    workdir = tmp_path / "workdir"
    (tmp_path / "slurm").mkdir()
    with slurm_node.start(tmp_path / "slurm") as slurm:
        env = clusters.environment(tmp_path, **slurm)
        command = clusters.command(tmp_path, workdir, clusters.LONG, "--engine=slurm", "--num_cpu_devices=1")

        def again():
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stderr

        clusters.slow(tmp_path).touch()
        assert "submitted job 1: 2 packs" in again()
        clusters.wait_for(lambda: clusters.checkpoints(workdir, "w16-d1"), "a checkpoint")
        urgent = ["sbatch", "--partition=high", "--wrap=sleep 1", f"--output={tmp_path}/urgent.log"]
        subprocess.run(urgent, env=env, check=True, capture_output=True)
        clusters.wait_for((tmp_path / "urgent.log").exists, "the urgent job")
        assert not clusters.losses(workdir), "preempted too late to show anything"
        clusters.slow(tmp_path).unlink()
        assert "nothing submitted" in again()
        clusters.wait_for((workdir / "_SUCCESS").exists, "the study")
        clusters.wait_for(lambda: not slurm_node.jobs(env), "an empty queue")
        log = (workdir / "slurm" / "1_0.log").read_text()
        assert "exit 75" in log and "start 2" in log, log
        assert "nothing is left to train" in again()
        assert not slurm_node.jobs(env)
        # Two tasks of one step find each other without flags.
        together = ["srun", "--ntasks=2", "--overcommit", *(arg for arg in command if not arg.startswith("--engine"))]
        done = subprocess.run(together, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("study 'tiny': cpu x2,") == done.stderr.count("nothing to train") == 1, done.stderr
    assert clusters.attempts(workdir, "w16-d1") == 2
    assert clusters.attempts(workdir, "w8-d1") == 1, "a finished pack does not run twice"
    assert sorted(clusters.losses(workdir).values()) == sorted(clusters.calm_losses().values()), "bit by bit"
