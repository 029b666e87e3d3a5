"""What happened: immutable records per run, and the table made of them.

workdir/
  study.json                      the present study, its data's identity and its runs
  runs/<run_id>/metrics-<attempt>-<seq>.jsonl   learning-curve points, immutable chunks
  runs/<run_id>/result.json       one row of the results table
  runs/<run_id>/_SUCCESS          written last: the run is finished; a run that a sweep has stopped lacks it
  trunks/<trunk_id>/metrics-...   the points of a trunk, shared by its branches
  scores/<name>/<run_id>.json     further columns of a run's row, from `scaling-jax evaluate`
  scores/<name>/set.json          what they were scored on
  samples.json                    a prompt down the ladder, from `scaling-jax sample --all_scales --save`

Every file is written whole under a temporary name, flushed to the disk and renamed. Paths are `etils.epath`, so gs://
works; nothing is ever appended, since object stores cannot.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from absl import logging

from scaling_jax.errors import UserError
from scaling_jax.storage import stored_json
from scaling_jax.storage.paths import as_path, write_atomic
from scaling_jax.storage.workdir import Workdir, say

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    "run_id", "study", "family", "scale", "width", "depth", "seed", "status", "lr", "batch_size",
    "params_total", "params_non_embedding", "params_matmul", "tokens", "flops", "flops_6nd", "loss",
    "dataset_hash", "code_version", "wall_s", "device",
]  # fmt: skip
TEXTS = {
    "run_id", "study", "family", "scale", "status", "dataset_hash", "code_version", "device", "trunk_id", "layout",
    "compute_dtype", "start_run_id", "simulated",
}  # fmt: skip
_NUMBERS = {*COLUMNS, "steps", "weight_decay", "init_scale", "warmup_steps", "b2", "cooldown_fraction"} - TEXTS
_POSITIVE = {"tokens", "flops", "steps", "batch_size", "params_total", "params_matmul"}
SAMPLES = "samples.json"
DONE, DIVERGED, FAILED, STOPPED = "done", "diverged", "failed", "stopped"


class Records:
    """The records under one workdir; safe for threads that write different runs.

    Args:
      workdir: local folder or gs:// path.
      attempt: number of this start of the command, so that chunks of two attempts never share a name.
      writes: False for all but one of several processes that train together: their writes do nothing.
    """

    def __init__(self, workdir: Any, attempt: int = 0, writes: bool = True):
        self.root = as_path(workdir)
        self.attempt = attempt
        self.writes = writes
        self._seq: dict[str, int] = {}

    def of_attempt(self, suffix: str) -> Any:
        """The path of a further file about this start of the command, e.g. ".trace.json"."""
        return self.root / "attempts" / f"{self.attempt:04d}-{os.getpid()}{suffix}"

    def write_points(self, kind: str, ident: str, points: Iterable[Mapping[str, Any]]) -> None:
        """One immutable chunk of learning-curve points of `kind` "runs" or "trunks"."""
        points = list(points)
        if not points or not self.writes:
            return
        key = f"{kind}/{ident}"
        seq = self._seq[key] = self._seq.get(key, -1) + 1
        text = "".join(json.dumps(point) + "\n" for point in points)
        write_atomic(self.root / kind / ident / f"metrics-{self.attempt:04d}-{seq:06d}.jsonl", text)

    def write_result(self, row: Mapping[str, Any]) -> None:
        """The run's row, then its `_SUCCESS`."""
        if not self.writes:
            return
        folder = self.root / "runs" / row["run_id"]
        write_atomic(folder / "result.json", json.dumps(dict(row), indent=1))
        write_atomic(folder / "_SUCCESS", "")

    def finished(self) -> dict[str, dict]:
        """run_id -> row of every run with `_SUCCESS`. Unreadable rows are logged and count as missing."""
        folder = self.root / "runs"
        rows = {}
        for run in folder.iterdir() if folder.exists() else ():
            if (run / "_SUCCESS").exists() and (row := _row(run)) is not None:
                rows[run.name] = row
        return rows

    def stopped(self) -> dict[str, dict]:
        """run_id -> row of every run that a sweep has stopped and nothing has trained since."""
        folder = self.root / "runs"
        rows = {}
        for run in folder.iterdir() if folder.exists() else ():
            if (run / "result.json").exists() and not (run / "_SUCCESS").exists():
                row = _row(run)
                if row is not None and row.get("status") == STOPPED:
                    rows[run.name] = row
        return rows

    def write_stopped(self, row: Mapping[str, Any]) -> None:
        """The row of a run that a sweep has stopped: it is not finished, and may be trained later."""
        if self.writes:
            write_atomic(self.root / "runs" / row["run_id"] / "result.json", json.dumps(dict(row), indent=1))

    def write_score(self, name: str, ident: str, content: Mapping[str, Any]) -> None:
        """Columns of the run `ident` by `name`, or (ident "set") what they are of."""
        if self.writes:
            write_atomic(self.root / "scores" / name / f"{ident}.json", json.dumps(dict(content), indent=1))

    def scores(self, name: str) -> dict[str, dict]:
        """run_id -> columns of one name; "set" -> what they were scored on. Unreadable files count as missing."""
        folder, found = self.root / "scores" / name, {}
        for path in folder.glob("*.json") if folder.exists() else ():
            try:
                found[path.stem] = stored_json.read(path, dict[str, float | str | None])
            except (ValueError, OSError) as error:
                logging.warning("%s is unreadable (%s); `evaluate` will score it again", path, error)
        return found

    def score_names(self) -> list[str]:
        """The names that `scores` knows."""
        folder = self.root / "scores"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def write_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """What `sample --all_scales --save` printed, for the report; earlier ones are replaced."""
        if self.writes:
            write_atomic(self.root / SAMPLES, json.dumps(list(samples), indent=1))

    def samples(self) -> list[dict]:
        """The samples saved last: scale, run_id, loss, prompt, text, settings; [] where none can be read."""
        try:
            return [dataclasses.asdict(sample) for sample in stored_json.read(self.root / SAMPLES, list[_Sample])]
        except FileNotFoundError:
            return []
        except ValueError as error:
            logging.warning("%s is unreadable (%s); the report is without samples", self.root / SAMPLES, error)
            return []

    def points(self, kind: str, ident: str) -> list[dict]:
        """Points in order of steps; where two attempts passed the same steps, those of the later one."""
        folder = self.root / kind / ident
        merged: list[dict] = []
        for path in sorted(folder.glob("metrics-*.jsonl"), key=lambda p: p.name) if folder.exists() else ():
            try:
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                chunk = stored_json.checked(lines, list[dict[Literal["first_step", "step", "loss"], int | float]])
                first, last = min(p["first_step"] for p in chunk), max(p["step"] for p in chunk)
                if any("loss" not in point for point in chunk):
                    raise ValueError("a point has no loss")
            except (ValueError, KeyError, OSError, RecursionError) as error:
                logging.warning("%s is unreadable (%s); its points are missing from the curve", path, error)
                continue
            merged = [p for p in merged if p["step"] <= first or p["first_step"] >= last] + chunk
        return sorted(merged, key=lambda point: point["step"])


def losses_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """run_id -> validation loss of rows by run_id; infinite for runs that diverged."""
    return {i: float(row["loss"]) if row["status"] == DONE else math.inf for i, row in rows.items()}


def _row(run: Any) -> dict | None:
    """The row in a run's folder; None, and a line in the log, where it cannot be read."""
    try:
        row = stored_json.read(run / "result.json", dict[str, Any])
        _check_row(row, run.name)
        return row
    except (ValueError, OSError) as error:
        logging.warning("%s/result.json is unreadable (%s); `run` will train it again", run, error)
        return None


@dataclasses.dataclass(frozen=True)
class _Sample:
    scale: str
    run_id: str
    loss: float
    prompt: str
    text: str
    settings: str


def _check_row(row: Mapping[str, Any], run_id: str) -> None:
    """Raises ValueError for what cannot be a row of this run."""
    if row.get("run_id") != run_id:
        raise ValueError("not a row of this run")
    for name, value in row.items():
        if name in TEXTS and not isinstance(value, str):
            raise ValueError(f"{name} is not a text")
        if name in _NUMBERS and not (value is None or isinstance(value, (int, float))):
            raise ValueError(f"{name} is not a number")
        if isinstance(value, (list, dict)):
            raise ValueError(f"{name} is not a number or a text")
        if name in _POSITIVE and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise ValueError(f"{name} is {value}")
    if "/" in row.get("trunk_id", ""):
        raise ValueError("trunk_id is a path")


def load_table(workdir: Any, every_run: bool = False) -> pd.DataFrame:
    """The results table of a workdir, one row per run.

    Args:
      workdir: local or gs://.
      every_run: also those runs that its present study does not ask for.

    Raises:
      UserError: nothing there, or no finished run.
    """
    path = as_path(workdir)
    if not path.is_dir():
        what = "are not a workdir" if path.exists() else "do not exist"
        raise UserError(f"results {str(path)!r} {what}; give the folder that scaling-jax run wrote")
    records = Records(path)
    rows = _present(path, records.finished(), every_run)
    rows += _asked(path, records.stopped(), every_run) if rows else []
    for name in records.score_names():
        scores = records.scores(name)
        rows = [row | scores.get(row["run_id"], {}) for row in rows]
    if not rows:
        raise UserError(f"{str(path)!r} holds no finished run (runs/*/_SUCCESS); train first with scaling-jax run")
    import pandas as pd  # planning does without

    table = pd.DataFrame(rows)
    if lacking := [column for column in COLUMNS if column not in table]:
        raise UserError(f"results in {str(path)!r} lack the columns {', '.join(lacking)}")
    table = table.sort_values(["flops", "run_id"], ignore_index=True)
    return table.reindex(columns=[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)])


def _present(path: Any, rows: Mapping[str, dict], every_run: bool) -> list[dict]:
    """The rows of the runs that the present study asks for."""
    stored, present = Workdir(path).stored(), _asked(path, rows, every_run)
    rungs = set(stored.rungs or ()) if stored is not None else set()
    if others := len(set(rows) - rungs - {row["run_id"] for row in present}):
        say(f"{others} finished runs in {path} are not part of its present study: left out")
    return present


def _asked(path: Any, rows: Mapping[str, dict], every_run: bool) -> list[dict]:
    stored = Workdir(path).stored()
    asked = set(rows) if every_run or stored is None else set(stored.runs)
    return [row for run_id, row in rows.items() if run_id in asked]


def load_curves(workdir: Any, table: pd.DataFrame) -> pd.DataFrame:
    """Learning curves of the table's runs: run_id, step, tokens, flops, loss, phase; a branch includes its trunk."""
    if lacking := [column for column in ("trunk_id", "steps") if column not in table]:
        raise UserError(f"results in {str(workdir)!r} lack the columns {', '.join(lacking)}")
    records = Records(workdir)
    trunks: dict[str, list[dict]] = {}
    rows = []
    for run in table[table["status"] != STOPPED].to_dict("records"):
        trunk_id, branch = run["trunk_id"], records.points("runs", run["run_id"])
        if trunk_id not in trunks:
            trunks[trunk_id] = records.points("trunks", trunk_id)
        fork = branch[0]["first_step"] if branch else run["steps"]
        per_step, flops_per_token = run["tokens"] / run["steps"], run["flops"] / run["tokens"]
        for phase, points in (("trunk", [p for p in trunks[trunk_id] if p["step"] <= fork]), ("branch", branch)):
            for p in points:
                tokens = p["step"] * per_step
                rows.append((run["run_id"], p["step"], tokens, tokens * flops_per_token, p["loss"], phase))
    import pandas as pd

    return pd.DataFrame(rows, columns=["run_id", "step", "tokens", "flops", "loss", "phase"])


def save_table(table: pd.DataFrame, path: Any) -> None:
    """Writes .csv or .parquet, whole or not at all.

    Raises:
      UserError: another ending.
    """
    path = as_path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out={str(path)!r}: unknown ending {path.suffix!r}; write .csv or .parquet")
    content = io.BytesIO()
    table.to_csv(content, index=False) if path.suffix == ".csv" else table.to_parquet(content, index=False)
    write_atomic(path, content.getvalue())
