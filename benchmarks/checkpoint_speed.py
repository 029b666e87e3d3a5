"""What checkpoints cost, and how soon a killed training goes on:

    python benchmarks/checkpoint_speed.py [--width=96] [--seconds=60] [--rounds=2]

Trains one scale with a checkpoint every few seconds and with none between the ends of phases, in turn, and prints the
difference of the wall times per checkpoint and as a share of a minute, at which the default saves one. Then kills the
training (SIGKILL) and starts the same command again: seconds from there until it trains, with a warm compilation cache.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

WIDTH = flags.DEFINE_integer("width", 96, "Width of the scale.")
DEPTH = flags.DEFINE_integer("depth", 2, "Its layers.")
SECONDS = flags.DEFINE_float("seconds", 60.0, "About how long each training takes.")
EVERY = flags.DEFINE_float("every", 5.0, "Seconds between checkpoints.")
ROUNDS = flags.DEFINE_integer("rounds", 2, "Trainings of each kind.")
STUDY = """
from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Fit, Ladder, Optimizer, Study


def get_study():
    return Study(
        name="checkpoint_speed",
        family=Transformer(head_dim=32),
        ladder=Ladder(widths=({width},), depths=({depth},)),
        budgets=Budgets(tokens=({tokens},)),
        optimizer=Optimizer(learning_rates=(0.01, 0.02), batch_size=8),
        data=Data(source="python_sources", context=128),
        evaluation=Evaluation(examples=64),
        execution=Execution(checkpoint_seconds={every}),
    )
"""
OFF = 1e9


def start(folder: pathlib.Path, tokens: float, every: float, name: str) -> subprocess.Popen:
    """The training of `tokens` tokens in a workdir of its own."""
    study = folder / f"{name}.py"
    study.write_text(STUDY.format(width=WIDTH.value, depth=DEPTH.value, tokens=tokens, every=every))
    command = [sys.executable, "-m", "scaling_jax", "run", f"--study={study}", f"--workdir={folder / name}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def progress(process: subprocess.Popen) -> Iterator[float]:
    """Tokens/s of every line of progress, as it comes."""
    for line in process.stderr:
        if found := re.search(r"([0-9.]+)([kM]?) tokens/s .* ETA", line):
            yield float(found[1]) * {"": 1.0, "k": 1e3, "M": 1e6}[found[2]]


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def train(folder: pathlib.Path, tokens: float, every: float, name: str) -> float:
    """Seconds of training, from the first line of progress on."""
    process = start(folder, tokens, every, name)
    next(progress(process))
    begin = time.perf_counter()
    for line in process.stderr:
        if "100%  loss" in line:
            break
    seconds = time.perf_counter() - begin
    process.communicate()
    shutil.rmtree(folder / name)
    return seconds


def main(argv: list[str]) -> None:
    del argv
    folder = pathlib.Path(tempfile.mkdtemp(prefix="checkpoint_speed"))
    process = start(folder, 1e9, OFF, "warm")  # fills the cache and tells the speed
    rates = progress(process)
    next(rates)  # the first dispatch is short
    tokens = round(next(rates) / 2 * SECONDS.value)  # two lanes
    kill(process)

    costs = []
    for i in range(ROUNDS.value):
        saved, alone = (
            train(folder, tokens, every, f"{kind}{i}") for kind, every in (("on", EVERY.value), ("off", OFF))
        )
        costs.append((saved - alone) / (alone / EVERY.value))
        print(f"{saved:.1f} s with a checkpoint every {EVERY.value:g} s, {alone:.1f} s without", flush=True)
    cost = statistics.median(costs)
    print(f"a checkpoint costs {cost:.2f} s: {cost / 60:.2%} at one a minute", flush=True)

    again = []
    for _ in range(4):
        begin = time.perf_counter()
        process = start(folder, 1e9, 2.0, "killed")
        next(progress(process))
        again.append(time.perf_counter() - begin)
        time.sleep(8)
        kill(process)
    first, *again = again  # nothing had been trained
    print(f"started: trains after {first:.1f} s; killed: trains again after {', '.join(f'{s:.1f} s' for s in again)}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    app.run(main)
