"""`scaling-jax run`: train what is missing, collect, fit, report. Run again: it goes on, or says what is done."""

from __future__ import annotations

import sys
import time
from typing import Any

import jax
from absl import flags

from scaling_jax import data
from scaling_jax.commands import report, study_flags
from scaling_jax.commands.plan_text import plan_text
from scaling_jax.engines import local
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.engines.progress import Reporter
from scaling_jax.engines.workdir import Workdir
from scaling_jax.plan import make_plan
from scaling_jax.results import Records, load_table, save_table
from scaling_jax.training import device
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.loop import missing


def define_flags() -> None:
    study_flags.define_flags()
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) for everything; default runs/<study name>.")


def main(args: list[str], values: Any) -> int:
    study = study_flags.read_study(args, values)
    spec = data.describe(study.data)
    make_plan(study, spec)  # what cannot be trained is said before anything is read or written
    workdir = Workdir(values.workdir or f"runs/{study.name}")
    workdir.check(study)
    study_flags.start_jax(values)
    _say(f"study {study.name!r}: {device.describe()}, workdir {workdir.path}")
    dataset = data.load(study.data, on_progress=_data_progress())
    packs = make_plan(study, spec, dataset.dataset_hash)
    with workdir.claim(study, dataset.dataset_hash) as attempt:
        jax.config.update("jax_compilation_cache_dir", str(workdir.path / "xla_cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        records = Records(workdir.path, attempt)
        finished = records.finished()
        todo = [pack for pack in packs if missing(pack, finished)]
        runs = sum(len(pack.runs) for pack in packs)
        if todo:
            _say(plan_text(study, packs, spec))
            _say(f"{runs - _count_missing(todo, finished)} of {runs} runs are done; training the rest")
            _train(todo, study, dataset, records)
        else:
            _say(f"all {runs} runs are done; nothing to train")
        save_table(load_table(workdir.path), workdir.path / "results.csv")
        print(report.write(workdir.path))
    return 0


def _train(todo, study, dataset, records: Records) -> None:
    common = {
        "study": study.name,
        "family": study.family.name,
        "dataset_hash": dataset.dataset_hash,
        "code_version": device.code_version(),
        "device": device.describe(),
    }
    feed = ResidentFeed(dataset, study.data.augment)
    peak, _ = device.peak_flops()
    with StopSignal() as should_stop:
        local.train_packs(todo, study, feed, records, common, should_stop, Reporter(todo, peak))


def _count_missing(packs, finished) -> int:
    return sum(run.run_id not in finished for pack in packs for run in pack.runs)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _data_progress():
    """Prints what the data room is doing, a line every few seconds."""
    last = {"time": time.monotonic(), "what": ""}

    def show(what: str, done: float, total: float | None) -> None:
        now = time.monotonic()
        if what != last["what"] or now - last["time"] > 5:
            last.update(time=now, what=what)
            share = f" {100 * done / total:.0f}%" if total and done else ""
            _say(f"data: {what}{share}")

    return show
