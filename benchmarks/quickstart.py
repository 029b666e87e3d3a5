"""Runs the quickstart in a fresh folder and prints wall time, tokens/s per scale and share of the matmul peak.

python benchmarks/quickstart.py                 # trains, about three minutes on two cores
python benchmarks/quickstart.py --workdir=W     # reads a finished workdir instead
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import jax
from absl import app, flags

from scaling_jax.storage.records import load_table
from scaling_jax.training import hardware

FLAGS = flags.FLAGS
flags.DEFINE_string("study", "experiments/text_quickstart.py", "The study to run.")
flags.DEFINE_string("workdir", None, "A finished workdir to read instead of training.")


def main(argv: list[str]) -> None:
    del argv
    hardware.use_cpu_devices()
    workdir, seconds = FLAGS.workdir, None
    if workdir is None:
        workdir = os.path.join(tempfile.mkdtemp(), "quickstart")
        begin = time.perf_counter()
        command = [sys.executable, "-m", "scaling_jax", "run", f"--study={FLAGS.study}", f"--workdir={workdir}"]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begin
    peak, source = hardware.peak_flops()
    # A pack with one lane has one device to itself; the peak is that of all of them.
    share_of = peak / jax.device_count()
    table = load_table(workdir)
    print(
        f"\nmatmul peak {peak / 1e9:.0f} GFLOP/s ({source}); one lane trains on one of {jax.device_count()} devices\n"
    )
    print("| scale | non-embedding | tokens/s | GFLOP/s | share of one device's peak |\n|---|---|---|---|---|")
    for scale, rows in table.groupby("scale", sort=False):
        # The longest run holds the whole trunk: its seconds are steady training.
        run = rows.loc[rows.tokens.idxmax()]
        rate = run.flops / run.wall_s
        print(
            f"| {scale} | {run.params_non_embedding:,} | {run.tokens_per_s:,.0f} | {rate / 1e9:.1f} "
            f"| {100 * rate / share_of:.0f}% |"
        )
    trained = table.sort_values("tokens").groupby("scale").wall_s.last().sum()
    print(f"\n{len(table)} runs; the longest run of every scale together took {trained:.0f} device-seconds")
    if seconds is not None:
        print(f"wall time of the command: {seconds:.0f} s")


if __name__ == "__main__":
    app.run(main)
