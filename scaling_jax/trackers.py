"""Ready callbacks for `run(on_metrics=...)`: TensorBoard, Weights & Biases and MLflow.

All take the plain dicts that `sj.run` hands out, so a tracker of your own is a function of ten lines.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from typing import Any

from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path

KINDS = ("tensorboard", "wandb", "mlflow")


def make(text: str, study: str, workdir: Any) -> Any:
    """The tracker that a command line names: "tensorboard[:FOLDER]", "wandb[:PROJECT]" or "mlflow[:EXPERIMENT]".

    Raises:
      UserError: another name, or its package is not installed.
    """
    kind, _, where = text.partition(":")
    if kind == "tensorboard":
        return TensorBoard(where or str(as_path(workdir) / "tensorboard"))
    if kind == "wandb":
        return WandB(project=where or "scaling_jax", name=study)
    if kind == "mlflow":
        return MLflow(experiment=where or "scaling_jax", name=study)
    raise UserError(f"--track={text}: give {', '.join(KINDS[:-1])} or {KINDS[-1]}, e.g. --track=tensorboard:runs/logs")


def lane_name(record: Mapping[str, Any]) -> str:
    """One curve per lane, and per branch: "w64-d2/lr0.02-seed0" or "w64-d2/lr0.02-seed0/branch-1a2b3c4d"."""
    lane = f"{record['scale']}/lr{record['lr']:g}-seed{record['seed']}"
    run_id = record.get("run_id")
    return f"{lane}/branch-{str(run_id)[:8]}" if run_id else lane


def result_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a finished run's row."""
    return {
        k: float(v)
        for k, v in record.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    }


class TensorBoard:
    """Writes event files that `tensorboard --logdir=FOLDER` shows, one folder per lane and branch.

    Example:
      with TensorBoard("logs") as tracker:
          sj.run(study, "runs/mine", on_metrics=tracker)

    Args:
      folder: for the event files.

    Raises:
      UserError: tensorboardX is not installed (`pip install 'scaling_jax[tensorboard]'`).
    """

    def __init__(self, folder: Any):
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise UserError("TensorBoard needs tensorboardX: pip install 'scaling_jax[tensorboard]'") from error
        self._writer, self._folder, self._open = SummaryWriter, str(folder), {}

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes what `on_metrics` is called with."""
        if record["kind"] == "train":
            writer = self._of(lane_name(record))
            writer.add_scalar("training/loss", record["loss"], record["step"])
            writer.add_scalar("training/tokens_per_s", record["tokens_per_s"], record["step"])
        elif record["kind"] == "result":
            writer = self._of(lane_name(record))
            for name, value in result_values(record).items():
                writer.add_scalar(f"result/{name}", value, record["steps"])
            writer.flush()

    def _of(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = self._writer(f"{self._folder}/{name}", flush_secs=10, write_to_disk=True)
        return self._open[name]

    def close(self) -> None:
        """Writes what is left."""
        for writer in self._open.values():
            writer.close()
        self._open.clear()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


class WandB:
    """Logs a study as one run of Weights & Biases: a curve per lane and branch, and the table of results at the end.

    Works offline with mode="offline" (or WANDB_MODE=offline); `wandb sync` uploads later.

    Args:
      project: where it goes.
      name: of the run.
      options: further arguments of `wandb.init`, such as entity, mode, dir.

    Raises:
      UserError: wandb is not installed (`pip install 'scaling_jax[wandb]'`).
    """

    def __init__(self, project: str = "scaling_jax", name: str | None = None, **options: Any):
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise UserError("Weights & Biases needs wandb: pip install 'scaling_jax[wandb]'") from error
        self._wandb, self._rows = wandb, []
        self._run = wandb.init(project=project, name=name, **options)
        self._known: set[str] = set()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes what `on_metrics` is called with."""
        if record["kind"] == "train":
            name = lane_name(record)
            if name not in self._known:
                self._known.add(name)
                self._run.define_metric(f"{name}/*", step_metric=f"{name}/step")
            values = {k: record[k] for k in ("step", "tokens", "loss", "tokens_per_s")}
            self._run.log({f"{name}/{k}": v for k, v in values.items()})
        elif record["kind"] == "result":
            self._rows.append({k: v for k, v in record.items() if k != "kind"})

    def close(self) -> None:
        """Logs the table of results and ends the run."""
        if self._rows:
            columns = list(dict.fromkeys(k for row in self._rows for k in row))
            data = [[row.get(k) for k in columns] for row in self._rows]
            self._run.log({"results": self._wandb.Table(columns=columns, data=data)})
        self._run.finish()

    def __enter__(self) -> WandB:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


class MLflow:
    """Logs a study as one run of MLflow: a metric per lane and branch, and the results as an artifact, results.csv.

    Args:
      experiment: where it goes; made if missing.
      name: of the run.
      uri: of the tracking server or store, e.g. "sqlite:///mlflow.db" without a server; default MLflow's own
        (MLFLOW_TRACKING_URI).

    Raises:
      UserError: mlflow is not installed (`pip install 'scaling_jax[mlflow]'`), or the store cannot be used.
    """

    def __init__(self, experiment: str = "scaling_jax", name: str | None = None, uri: str | None = None):
        try:
            import mlflow
        except ModuleNotFoundError as error:
            raise UserError("MLflow needs mlflow: pip install 'scaling_jax[mlflow]'") from error
        try:
            self._client = mlflow.MlflowClient(uri)
            found = self._client.get_experiment_by_name(experiment)
            ident = self._client.create_experiment(experiment) if found is None else found.experiment_id
            self._run = self._client.create_run(ident, run_name=name).info.run_id
        except mlflow.exceptions.MlflowException as error:
            raise UserError(f"MLflow: {' '.join(str(error).split())[:300]}") from error
        self._rows: list[dict[str, Any]] = []

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes what `on_metrics` is called with."""
        if record["kind"] == "train":
            lane = re.sub(r"[^\w./ -]", "_", lane_name(record))  # other characters are refused
            for name in ("loss", "tokens_per_s"):
                if math.isfinite(record[name]):
                    self._client.log_metric(self._run, f"{lane}/{name}", record[name], step=record["step"])
        elif record["kind"] == "result":
            self._rows.append({k: v for k, v in record.items() if k != "kind"})

    def close(self) -> None:
        """Logs the results and ends the run."""
        if self._rows:
            out = io.StringIO()
            writer = csv.DictWriter(out, list(dict.fromkeys(k for row in self._rows for k in row)))
            writer.writeheader()
            writer.writerows(self._rows)
            self._client.log_text(self._run, out.getvalue(), "results.csv")
        self._client.set_terminated(self._run)

    def __enter__(self) -> MLflow:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
