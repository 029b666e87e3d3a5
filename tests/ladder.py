"""A ladder that trains in seconds, and the command line in this process or in one of its own."""

import contextlib
import io
import multiprocessing
import os
import pathlib
import random
import sys
from collections.abc import Callable

import bigram  # noqa: F401
import pandas as pd

from scaling_jax.cli import main as cli
from scaling_jax.storage.records import load_table

WORDS = "the law of a small model tells what the large one will do with more data and more compute"
TRANSFORMER, BIGRAM = "Transformer(head_dim=8)", "Bigram()"
STUDY = f'''
"""A ladder that trains in seconds."""
import sys

sys.path.append({str(pathlib.Path(__file__).parent)!r})
from bigram import Bigram
from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Fit, Ladder, Optimizer, Schedule, Study

BATCH = 4 * 16


def get_study():
    return Study(
        name="tiny",
        family=Transformer(head_dim=8),
        ladder=Ladder(widths=(8, 16), depths=(1,)),
        budgets=Budgets(tokens=(60 * BATCH, 120 * BATCH, 240 * BATCH), min_steps=10),
        optimizer=Optimizer(learning_rates=(0.01, 0.02, 0.04), batch_size=4),
        schedule=Schedule(warmup_steps=10),
        data=Data(source=SOURCE, context=16),
        evaluation=Evaluation(examples=64, batch_size=32),
        execution=Execution(layout="map"),
        fit=Fit(bootstrap=0),
    )
'''
NO_REPORT = """

import sys

from scaling_jax import api

if "pytest" not in sys.modules:  # where a study is loaded by the tests themselves it would stay for all that follow
    api.write_report = lambda workdir: "no report in this test"
"""


def write_study(folder: pathlib.Path, family: str = BIGRAM) -> pathlib.Path:
    """A text and a study of it in `folder`; the study's path. A transformer compiles for ten times as long."""
    rng = random.Random(0)
    text = folder / "text.txt"
    text.write_text("".join(" ".join(rng.choices(WORDS.split(), k=12)) + "\n" for _ in range(4000)))
    study = folder / "tiny.py"
    study.write_text(f"SOURCE = {str(text)!r}\n{STUDY}".replace(TRANSFORMER, family))
    return study


def run_here(*args: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["scaling-jax", *map(str, args)])
    return code, out.getvalue(), err.getvalue()


class Cli:
    """Starts the command line in processes of their own, forked from one that has imported everything.

    Args:
      log: file for both streams of the latest process.
      report: whether fitting and drawing belongs to it; they take longer than the ladder.
    """

    def __init__(self, log: pathlib.Path, report: bool = False):
        self.log, self.report = log, report
        self._context = multiprocessing.get_context("forkserver")
        commands = [f"scaling_jax.cli.{name}" for name in ("run", "report", "evaluate")]
        self._context.set_forkserver_preload([*commands, "scaling_jax.api", "tensorflow_datasets", "ladder"])

    def start(self, *args: object, before: Callable[[], None] | None = None) -> multiprocessing.Process:
        """Starts `scaling-jax *args`, after calling `before` in the new process."""
        self.log.write_text("")
        settings = (args, dict(os.environ), str(self.log), self.report, before)
        process = self._context.Process(target=_child, args=settings)
        process.start()
        return process

    def run(self, *args: object, before: Callable[[], None] | None = None) -> int:
        """Exit code of `scaling-jax *args`; negative signal numbers for processes that were killed."""
        process = self.start(*args, before=before)
        process.join()
        return process.exitcode

    def said(self) -> str:
        """What the latest process has printed so far."""
        return self.log.read_text()


def _child(args, environ, log, report, before) -> None:
    os.environ.clear()
    os.environ.update(environ)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    if not report:
        from scaling_jax import api

        api.write_report = lambda workdir: "no report in this test"
    if before is not None:
        before()
    code = cli.main(["scaling-jax", *map(str, args)])
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def refuse_pickles() -> None:
    """For `before=`: ends this process when anything is unpickled by name, as code in a pickle is called."""

    def refuse(event, args):
        if event == "pickle.find_class":
            print(f"unpickled: {args}", file=sys.stderr, flush=True)
            os._exit(99)

    sys.addaudithook(refuse)


def table(workdir: pathlib.Path) -> pd.DataFrame:
    """The results of a workdir without what may differ between equal runs: times, memory of a feed, code version."""
    rows = load_table(workdir).sort_values("run_id", ignore_index=True)
    return rows.drop(columns=["wall_s", "tokens_per_s", "compile_s", "memory_bytes", "code_version"])


def files(folder: pathlib.Path) -> set[str]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
