"""Runs the quickstart in a fresh folder; prints where the time goes, tokens/s per scale and share of the matmul peak.

python benchmarks/quickstart.py                 # trains, about three minutes on two cores
python benchmarks/quickstart.py --seeds=0,1     # two seeds
python benchmarks/quickstart.py --workdir=W     # reads a finished workdir instead

The compilation cache is empty at first, as in a fresh clone.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
from absl import app, flags

from scaling_jax.storage.records import load_table
from scaling_jax.training import hardware
from scaling_jax.training.trace import EVALUATION, WORK, covered

FLAGS = flags.FLAGS
flags.DEFINE_string("study", "experiments/text_quickstart.py", "The study to run.")
flags.DEFINE_string("workdir", None, "A finished workdir to read instead of training.")
flags.DEFINE_string("seeds", None, "Seeds of the study.")
flags.DEFINE_multi_string("set", [], "Overrides of the study.")


def import_seconds() -> float:
    """What the command takes to import everything."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import scaling_jax.cli.run"], check=True)
    return time.perf_counter() - begin


def where_time_goes(workdir: str, seconds: float | None) -> str:
    """A table of the first attempt's trace."""
    path = min(pathlib.Path(workdir).glob("attempts/*.trace.json"))
    events = json.loads(path.read_text())["traceEvents"]
    kinds = collections.defaultdict(float)
    for event in events:
        kinds[event["cat"]] += event["dur"] / 1e6
    training = [event for event in events if event["cat"] in WORK]
    first = min(event["ts"] for event in training)
    last = max(event["ts"] + event["dur"] for event in training)
    compiled = min(event["ts"] + event["dur"] for event in events if event["cat"] == "compile")
    spans = collections.defaultdict(list)  # of a device: evaluations have a row of their own
    for event in training:
        spans[event["tid"] % EVALUATION].append((max(event["ts"], compiled), event["ts"] + event["dur"]))
    busy = sum(map(covered, spans.values())) / ((last - compiled) * len(spans))
    rows = [
        ("importing everything (beside)", import_seconds(), ""),
        ("reading the data", kinds["data"], ""),
        ("until the first program is compiled", compiled / 1e6 - kinds["data"], ""),
        ("compiling in all", kinds["compile"], "most of it beside training"),
        ("steps of trunks", kinds["trunk"], "device-seconds"),
        ("steps of branches", kinds["branch"], "device-seconds"),
        ("evaluation", kinds["evaluate"], "device-seconds"),
        ("handing over checkpoints", kinds["save"], "their writing is beside training"),
        ("training, first to last step", (last - first) / 1e6, f"devices busy {busy:.0%}"),
        ("analysis, figures, report", kinds["report"], ""),
    ]
    if seconds is not None:
        rows.append(("the whole command", seconds, ""))
    return "| | seconds | |\n|---|--:|---|\n" + "\n".join(f"| {a} | {b:.1f} | {c} |" for a, b, c in rows)


def main(argv: list[str]) -> None:
    del argv
    hardware.use_cpu_devices()
    workdir, seconds = FLAGS.workdir, None
    if workdir is None:
        folder = tempfile.mkdtemp()
        workdir = os.path.join(folder, "quickstart")
        begin = time.perf_counter()
        command = [sys.executable, "-m", "scaling_jax", "run", f"--study={FLAGS.study}", f"--workdir={workdir}"]
        command += [f"--set=seeds=({FLAGS.seeds},)"] if FLAGS.seeds else []
        command += [f"--set={assignment}" for assignment in FLAGS.set]
        subprocess.run(command, check=True, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla"})
        seconds = time.perf_counter() - begin
    print(where_time_goes(workdir, seconds))
    peak, source = hardware.peak_flops()
    table = load_table(workdir)
    count, trained = jax.device_count(), 0.0
    print(f"\nmatmul peak {peak / 1e9:.0f} GFLOP/s ({source}); the lanes of a scale share {count} devices\n")
    print("| scale | non-embedding | tokens/s of the scale | GFLOP/s | share of their peak |\n|---|---|---|---|---|")
    for scale, rows in table.groupby("scale", sort=False):
        # The longest run holds the whole trunk: its seconds are steady training, divided by the lanes beside it.
        run = rows.loc[rows.tokens.idxmax()]
        rate, busy = run.flops / run.wall_s, min(count, int((rows.tokens == run.tokens).sum()))
        trained += run.wall_s * busy
        print(
            f"| {scale} | {run.params_non_embedding:,} | {run.tokens_per_s:,.0f} | {rate / 1e9:.1f} "
            f"| {100 * rate * count / (peak * busy):.0f}% |"
        )
    print(f"\n{len(table)} runs; the longest run of every scale together took {trained:.0f} device-seconds")


if __name__ == "__main__":
    app.run(main)
