"""A ladder that trains in seconds, and the command line in this process or in one of its own."""

import contextlib
import io
import os
import pathlib
import random
import subprocess
import sys

from scaling_jax import cli

WORDS = "the law of a small model tells what the large one will do with more data and more compute"
STUDY = '''
"""A ladder that trains in seconds."""
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


def write_study(folder: pathlib.Path) -> pathlib.Path:
    """A text and a study of it in `folder`; the study's path."""
    rng = random.Random(0)
    text = folder / "text.txt"
    text.write_text("".join(" ".join(rng.choices(WORDS.split(), k=12)) + "\n" for _ in range(4000)))
    study = folder / "tiny.py"
    study.write_text(f"SOURCE = {str(text)!r}\n{STUDY}")
    return study


def run_here(*args: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["scaling-jax", *map(str, args)])
    return code, out.getvalue(), err.getvalue()


def start(*args: object, **env: str) -> subprocess.Popen:
    """The command line in a process of its own; its stderr holds both streams."""
    return subprocess.Popen(
        [sys.executable, "-m", "scaling_jax", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | env,
    )


def files(folder: pathlib.Path) -> set[str]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
