"""SIGTERM and Ctrl-C save and end with 75 after the chunk under way; a second one ends at once."""

import os
import re
import signal
import subprocess
import sys
import time

import ladder
import pandas as pd
import pytest

from scaling_jax.engines.preemption import StopSignal
from scaling_jax.errors import Preempted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_training_a_signal_stops_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(Preempted, match=number.name), StopSignal():
        os.kill(os.getpid(), number)
        time.sleep(60)
    assert signal.getsignal(number) is before


def test_inside_training_a_signal_is_a_question(capsys):
    asked = []
    with pytest.raises(Preempted), StopSignal() as stop, stop.deferred():
        asked.append(stop())
        os.kill(os.getpid(), signal.SIGTERM)
        asked.append(stop())
        capsys.readouterr()
        # Whoever trains saves here and raises Preempted itself; if it had nothing left to do, leaving raises.
    assert asked == [False, True]


def test_told_before_training_begins():
    with pytest.raises(Preempted), StopSignal() as stop:
        stop._told = signal.SIGTERM  # as by a signal whose exception was swallowed, in a destructor say
        with stop.deferred():
            pytest.fail("training began")


def test_the_second_signal_ends_the_process():
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as sys.stderr, StopSignal() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_one_stop_that_arrives_twice_is_one_stop():
    with pytest.raises(Preempted), StopSignal() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command line and its arguments: two packs side by side, chunks of 20 steps, no checkpoint in between."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(home / "cache"))
        args = (
            "run",
            f"--study={ladder.write_study(home)}",
            "--num_cpu_devices=2",
            "--set=execution.mesh=(1,1,1)",
            "--set=optimizer.learning_rates=0.02",
            "--set=budgets.tokens=(6400,12800,51200)",
            "--set=execution.dispatch_seconds=1e-3",
            "--set=execution.checkpoint_seconds=1e6",
        )
        yield ladder.Cli(home / "log"), args


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_while_packs_train_side_by_side(command, tmp_path, number):
    cli, args = command
    args = (*args, f"--workdir={tmp_path / 'work'}")
    process = cli.start(*args)
    while process.is_alive() and "trunk" not in cli.said():
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 75, cli.said()
    assert f"{number.name}: saving after this chunk" in cli.said()
    last = cli.said().splitlines()[-1]
    assert last.startswith("scaling-jax: ")
    assert last.endswith("run the same command again to resume")
    assert not list((tmp_path / "work" / "locks").glob("*.json"))
    if number == signal.SIGTERM:
        assert cli.run(*args, before=ladder.refuse_pickles) == 0, cli.said()  # a workdir is data
        assert "taking over" not in cli.said()
        whole = tmp_path / "whole"
        assert cli.run(*args[:-1], f"--workdir={whole}") == 0, cli.said()
        pd.testing.assert_frame_equal(ladder.table(tmp_path / "work"), ladder.table(whole), check_exact=True)


@pytest.mark.slow
def test_a_second_process_is_told_who_trains_and_refused(command, tmp_path):
    cli, args = command
    args = (*args, f"--workdir={tmp_path / 'work'}", "--set=budgets.tokens=6e6")  # far longer than this test
    process = cli.start(*args)
    while process.is_alive() and "trunk" not in cli.said():
        time.sleep(0.02)
    here = [arg for arg in args if not arg.startswith("--num_cpu_devices")]  # JAX has its devices in this process
    code, _, err = ladder.run_here(*here)
    assert code == 2
    said = rf"scaling-jax: workdir .* is in use: pack \S+ is trained by pid {process.pid} on \S+ since .*\n"
    assert re.fullmatch(said, err), err
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75, cli.said()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_ends_with_75_and_one_line(tmp_path, number):
    """While the study is read nothing has begun: the handler that was installed before all imports ends the process.

    The signal may reach another thread first, so the study waits for the handler."""
    (tmp_path / "study.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(20)\nraise RuntimeError('went on')\n"
    )
    command = [sys.executable, "-m", "scaling_jax", "plan", f"--study={tmp_path / 'study.py'}"]

    def in_the_foreground():  # tests that run in the background ignore SIGINT, and the command would as well
        signal.signal(number, signal.SIG_DFL)

    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=in_the_foreground)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == f"scaling-jax: stopped by {number.name}; run the same command again\n"
