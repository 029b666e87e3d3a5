"""Scores finished runs on further validation sets, compressed, or as the ensemble of a scale's seeds.

Every score is a column of the results table, named by what is measured, on what, and how: `loss`, `loss_news`,
`loss_int8`, `accuracy_news_ensemble`. Scores are written run by run, so that what was stopped is resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling_jax import data
from scaling_jax.data import Dataset
from scaling_jax.errors import UserError
from scaling_jax.models.family import Model, Spec
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Data, Study, ValidationSet
from scaling_jax.trained import compress, tokenizer
from scaling_jax.trained.compress import Treatment
from scaling_jax.trained.models import Models, need_logits
from scaling_jax.trained.scoring import Scorer

AS_TRAINED = Treatment("")

OnProgress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class _Column:
    """What one group of columns is of."""

    over: ValidationSet | None  # None is the study's own validation set
    treatment: Treatment

    @property
    def name(self) -> str:
        return "_".join(part for part in (self.over.name if self.over else "", self.treatment.name) if part)


def evaluate(
    workdir: Any,
    sets: Sequence[ValidationSet] = (),
    treatments: Sequence[Treatment] = (),
    on_progress: OnProgress = lambda line: None,
) -> list[str]:
    """Scores every finished run that has no score yet.

    Example:
      evaluate("runs/mine", [ValidationSet(name="news", source="my_news.txt")])
      sj.load("runs/mine").table["loss_news"]

    Args:
      workdir: of a study.
      sets: validation sets; without any, those of the study, and where there are treatments its main one.
      treatments: what is done to the models; without any, they are scored as they were trained.
      on_progress: called with a line for every scale.

    Returns:
      Names of the columns, those that were there already included.

    Raises:
      UserError: not a workdir with checkpoints, data of another kind or vocabulary, a name that is taken by other
        data, or a treatment that the family does not allow.
    """
    models = Models(workdir)
    Workdir(workdir).check_links()
    chosen = sets or (() if treatments else models.study.evaluation.sets)
    columns = [_Column(over, treatment) for over in (chosen or (None,)) for treatment in (treatments or (AS_TRAINED,))]
    if any(not column.name for column in columns):
        raise UserError("nothing to evaluate: give another source, --quantize, --prune or --ensemble")
    _check_names(models, columns)
    records = Records(models.path)
    for over in dict.fromkeys(column.over for column in columns):
        wanted = [column for column in columns if column.over == over]
        if all(_is_complete(models, column, records) for column in wanted):
            continue
        dataset = dataset_of(models, over)
        claims = {column: _claim(records, column, dataset, models.study) for column in wanted}
        _score(models, dataset, claims, records, on_progress)
    done = {name for column in columns for row in records.scores(column.name).values() for name in row}
    return sorted(done - _SET_FIELDS)


def _is_complete(models: Models, column: _Column, records: Records) -> bool:
    """True where every run has the column, of data that is called the same."""
    found = records.scores(column.name)
    source = models.study.data.source if column.over is None else column.over.source
    wanted = {
        row["run_id"] for scale in models.scales for rows in _branches(models, scale) for row in _scored(rows, column)
    }
    return wanted <= set(found) and found.get("set", {}).get("source") == source


_SET_FIELDS = {"source", "dataset_hash", "examples", "treatment"}


def check_sets(study: Study, spec: Spec) -> None:
    """Raises UserError for a validation set of a study that its models cannot be scored on; reads no data."""
    names = [one.name for one in study.evaluation.sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"evaluation.sets: two sets are called {name!r}")
    for one in study.evaluation.sets:
        _check_spec(one, data.describe(_data(study, one, study.data.tokenizer)), spec)


def dataset_of(models: Models, over: ValidationSet | None) -> Dataset:
    """The data of a set, in the tokens of the study; None is the study's own.

    Raises:
      UserError: it is of another kind or vocabulary, or the study's own data have changed.
    """
    if over is None:
        dataset = data.load(models.study.data)
        if dataset.dataset_hash != models.stored.dataset_hash:
            raise UserError(
                f"the data of workdir {str(models.path)!r} has changed (dataset_hash {models.stored.dataset_hash}, now "
                f"{dataset.dataset_hash})"
            )
        tokenizer.keep(models.path, dataset)
        return dataset
    dataset = data.load(_data(models.study, over, tokenizer.file_of(models.path, models.study, models.spec)))
    _check_spec(over, dataset.spec, models.spec)
    return dataset


def _data(study: Study, over: ValidationSet, tokens: str) -> Data:
    return dataclasses.replace(
        study.data,
        source=over.source,
        data_dir=over.data_dir,
        split=over.split,
        validation_split=over.validation_split,
        tokenizer=tokens,
        unique_tokens=None,
    )


def _check_spec(over: ValidationSet, found: Spec, spec: Spec) -> None:
    if found != spec:
        shown = [f"{s.kind}, vocabulary {s.vocab_size}, shape {s.image_shape or s.context}" for s in (found, spec)]
        raise UserError(f"validation set {over.name!r} is {shown[0]}; the models read {shown[1]}")


def _check_names(models: Models, columns: Sequence[_Column]) -> None:
    """Raises UserError for what the family does not allow, before anything is read."""
    row = models.best()
    model = models.model(row["width"], row["depth"])
    for column in columns:
        if column.treatment.bits or column.treatment.share:
            compress.need_matrices(model, models.study.family.name)
        if column.treatment.ensemble:
            need_logits(model, models.study)
            if all(len(group) < 2 for group in _seeds(list(models.rows.values()))):
                raise UserError("--ensemble averages seeds, and no scale has two: train with --set seeds=(0,1)")
        if column.over is not None and f"loss_{column.name}" in row:
            raise UserError(f"--name={column.over.name}: the results have a column loss_{column.name}; choose another")


def _claim(records: Records, column: _Column, dataset: Dataset, study: Study) -> dict[str, Any]:
    """What a name stands for.

    Raises:
      UserError: it stands for something else here.
    """
    content = {
        "source": study.data.source if column.over is None else column.over.source,
        "dataset_hash": dataset.dataset_hash,
        "examples": study.evaluation.examples,
        "treatment": column.treatment.name,
    }
    before = records.scores(column.name).get("set")
    if before and {**before, "source": ""} != {**content, "source": ""}:
        raise UserError(
            f"the name {column.name!r} is taken by scores on other data ({before.get('source')}, dataset_hash "
            f"{before.get('dataset_hash')}); give another --name"
        )
    return content


def _seeds(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Groups of runs that differ by their seed only."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        keys = ("scale", "steps", "lr", "weight_decay", "init_scale", "batch_size")
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.values())


def _branches(models: Models, scale: str) -> Iterator[list[Mapping[str, Any]]]:
    """The runs of one scale, by budget."""
    rows = [row for row in models.rows.values() if row["scale"] == scale]
    for steps in sorted({row["steps"] for row in rows}):
        yield [row for row in rows if row["steps"] == steps]


def _score(
    models: Models, dataset: Dataset, claims: Mapping[_Column, dict], records: Records, on_progress: OnProgress
) -> None:
    """Writes the missing scores on one set, scale by scale, budget by budget: every checkpoint is read once."""
    done = {column: records.scores(column.name) for column in claims}
    for scale in models.scales:
        scorer, scored = None, 0
        for rows in _branches(models, scale):
            todo = [c for c in claims if any(row["run_id"] not in done[c] for row in _scored(rows, c))]
            if not todo:
                continue
            scorer = scorer or Scorer(_model(models, rows[0]), dataset, models.study)
            params = models.params(rows)
            for column in todo:
                if not done[column].get("set"):
                    records.write_score(column.name, "set", claims[column])
                    done[column]["set"] = claims[column]
                for run_id, found in _values(scorer, column, rows, params).items():
                    if run_id not in done[column]:
                        records.write_score(column.name, run_id, found)
                        scored += 1
        if scored:
            on_progress(f"{scale}: {scored} scores on {dataset.info['source']}")


def _model(models: Models, row: Mapping[str, Any]) -> Model:
    return models.model(row["width"], row["depth"])


def _scored(rows: Sequence[Mapping[str, Any]], column: _Column) -> list[Mapping[str, Any]]:
    """The runs that get the column: of an ensemble its first seed's, so that no value counts twice in a fit."""
    if not column.treatment.ensemble:
        return list(rows)
    return [group[0] for group in _seeds(rows) if len(group) > 1]


def _values(
    scorer: Scorer, column: _Column, rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any]
) -> dict[str, dict[str, float | None]]:
    """run_id -> columns of one budget's runs."""
    treatment = column.treatment
    if treatment.ensemble:
        groups = [group for group in _seeds(rows) if len(group) > 1]
        found = {g[0]["run_id"]: scorer.ensemble([params[row["run_id"]] for row in g]) for g in groups}
    else:
        ids = [row["run_id"] for row in rows]
        found = dict(zip(ids, scorer.each([params[run_id] for run_id in ids], treatment.apply)))
    return {
        run_id: {f"{name}_{column.name}": _plain(value) for name, value in metrics.items()}
        for run_id, metrics in found.items()
    }


def _plain(value: Any) -> float | None:
    value = float(np.asarray(jax.device_get(value)))
    return value if np.isfinite(value) else None
