"""A table from anywhere -> `Runs`: columns found, rows that must not enter left out and counted, the best of sweeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax.analysis import status as states
from scaling_jax.analysis.columns import Columns, as_frame, size_labels, trunk_labels
from scaling_jax.analysis.extra_rows import repeated_rows, without_extra_rows
from scaling_jax.analysis.frames import names_of
from scaling_jax.analysis.header import USUAL_NAMES, Header, check_names
from scaling_jax.analysis.hints import alike, way_out
from scaling_jax.analysis.runs import (
    Runs,
    Sweep,
    best_of,
    count_statuses,
    most_epochs,
    rising,
    scale_table,
    seed_noise,
    seen_before,
    starts_note,
    y_name,
)
from scaling_jax.analysis.status import DONE
from scaling_jax.analysis.tuned import find_sweep, learning_curves
from scaling_jax.analysis.units import check_signs, compute_note, suspect_units
from scaling_jax.analysis.where import asks_for, rows_where, split_pairs
from scaling_jax.analysis.winners import Tuned, winners
from scaling_jax.errors import UserError
from scaling_jax.fitting import Law
from scaling_jax.fitting.rows import evenly
from scaling_jax.study import Fit
from scaling_jax.text import listed, plural, short

OURS = ("run_id", "scale", "seed", "status", "lr", "tokens", "flops", "dataset_hash")
CONVENTIONS = ("params_matmul", "params_non_embedding", "params_total")
MOST_ROWS = 30_000  # of others' tables that are fitted: beyond, the law's own error is far above that of the sample
CORPUS = ("dataset_hash", "dataset", "corpus")


def read_runs(table: Any, law: Law | None, settings: Fit, columns: Columns | None = None) -> Runs:
    """Reads the runs of a table.

    Args:
      table: a DataFrame (or what pandas makes one of), one row per run.
      law: whose inputs are wanted; None for any law of N and D.
      settings: `metric` is y and `params` is N where the table has them.
      columns: how to read it.

    Raises:
      UserError: a column is missing, ambiguous or not numeric, nothing is left, or corpora are mixed.
    """
    columns = columns or Columns()
    frame = as_frame(table)
    if not len(frame):
        raise UserError("the results table has no run; train first with scaling-jax run")
    ours = is_ours(frame)
    frame, extra = (frame, []) if ours else without_extra_rows(frame)
    header = Header(frame)
    notes = list(dict.fromkeys([*frame.attrs.get("notes", ()), *extra, *header.notes]))
    return _Reader(header, law, settings, columns, ours, notes).runs()


def is_ours(frame: pd.DataFrame) -> bool:
    """Whether this is a results table of a workdir, not somebody else's."""
    return all(name in frame for name in OURS)


@dataclasses.dataclass
class _Reader:
    """The steps of `read_runs`, which share what they find."""

    header: Header
    law: Law | None
    settings: Fit
    columns: Columns
    ours: bool
    notes: list[str]
    names: dict[str, str] = dataclasses.field(default_factory=dict)

    def runs(self) -> Runs:
        chosen_by = self.columns.names
        inputs = self.law.inputs if self.law is not None else ("N", "D")
        derived = ("N", "D") if "M" in inputs else ()
        check_names(chosen_by, [*inputs, "y", "C", *derived])
        column = states.status_column(self.header)
        table = self._without_repeats()
        status = states.statuses(self.header, column).loc[table.index]
        status = self._where(table, status, column)
        done = table.loc[status.index[status == DONE]]
        self._refuse_mixed(done)
        if self.ours and (note := starts_note(done, self.law is not None and "S" in self.law.inputs)):
            self.notes.append(note)
        read = self._numbers(done)
        values, status = self._without_empty(read, status)
        if not len(values) and not self.ours:
            raise UserError(f"none of {plural(len(self.header.table), 'row')} is left: " + "; ".join(self.notes))
        frame = self._frame(table.loc[status.index], status, read.assign(y=values.y))
        return self._chosen(frame, values)

    def _without_repeats(self) -> pd.DataFrame:
        """The latest row of each of our runs; of other tables every row but those that repeat one in every column."""
        table = self.header.table
        if self.ours:
            table = table.drop_duplicates("run_id", keep="last")
            stopped = table["status"].map(str) == states.STOPPED
            if stopped.any():
                count = plural(int(stopped.sum()), "run")
                self.notes.append(f"{count} of weak combinations stopped early by the sweep")
            return table[~stopped]
        repeats = repeated_rows(table)
        if repeats.any():
            self.notes.append(
                f"LEFT OUT {int(repeats.sum())} of {len(table)} rows that repeat another in every column (first: row "
                f"{table.index[repeats][0]}); if they are other runs, add a column such as seed"
            )
        return table[~repeats]

    def _where(self, table: pd.DataFrame, status: pd.Series, column: str | None) -> pd.Series:
        """The statuses of the rows that meet the conditions; those named in one are taken as finished."""
        asked = [part for text in self.columns.where for part in split_pairs(text, table, self.header.find)]
        enter = pd.Series(True, index=table.index)
        flags = states.flag_columns(self.header)
        by_status = False
        for condition in asked:
            chosen = rows_where(table, condition, self.header.find)
            self.notes.append(f"--where={condition}: {int((chosen & enter).sum())} of {int(enter.sum())} rows enter")
            enter &= chosen
            by_status |= any(asks_for(condition, c) for c in (column, *flags) if c is not None)
        status = status[enter]
        if by_status:
            return pd.Series(DONE, index=status.index, dtype=object)
        left = status != DONE
        unsaid = left & (table.loc[left.index, column].map(states.is_done).astype(bool) if column is not None else True)
        if unsaid.any():
            named = " or ".join(flags[:3])
            self.notes.append(
                f"LEFT OUT {int(unsaid.sum())} of {len(status)} rows that {named} marks as {status[unsaid].iloc[0]}"
            )
        if (left & ~unsaid).any() and column is not None:
            left &= ~unsaid
            cells = table.loc[left.index[left], column]
            words = cells.where(cells.notna(), "empty").map(str).value_counts()
            counts = ", ".join(f"{n} {word}" for word, n in words.items())
            way = ""
            if left.all():
                way = f"; if {words.index[0]} is how finished runs are called, --where={column}={words.index[0]}"
            self.notes.append(
                f"LEFT OUT {int(left.sum())} of {len(status)} rows whose {column} is not done: {counts}{way}"
            )
        known = self.ours and column is not None and states.all_known(table.loc[status.index, column])
        if not (status == DONE).any() and not known:
            raise UserError(f"none of {plural(len(self.header.table), 'row')} is left: " + "; ".join(self.notes))
        return status

    def _refuse_mixed(self, done: pd.DataFrame) -> None:
        if "dataset_hash" not in done:
            return
        counts = done["dataset_hash"].map(str).value_counts()
        if len(counts) > 1:
            hashes = ", ".join(f"{name} ({n} rows)" for name, n in counts.head(4).items())
            raise UserError(
                f"rows come from {len(counts)} different corpora, dataset_hash {hashes}: their losses cannot be "
                f"compared; fit one at a time with --where=dataset_hash={counts.index[0]}"
            )

    def _numbers(self, done: pd.DataFrame) -> pd.DataFrame:
        """N, D, C, y and the law's other inputs of the finished rows; nan where the law does not need one."""
        out = pd.DataFrame(index=done.index)
        wanted = list(self.law.inputs) if self.law is not None else ["N", "D"]
        if "M" in wanted:
            wanted = [*(k for k in wanted if k not in ("M", "N")), "N", "D"]
        for name in dict.fromkeys([*wanted, "N", "D", "C", "U"]):
            text = self._source(name, optional=name not in wanted)
            if text is not None:
                out[name] = self.header.values(text, done, self.notes)
                self.names[name] = text
        if "x" in wanted and "x" not in out:
            raise UserError("no column for x: map one with --columns=x=<column>")
        text = self._source("y", optional=False)
        assert text is not None
        out["y"] = self.header.values(text, done, self.notes)
        self.names["y"] = text
        if rising(self.settings.metric) and text == self.settings.metric:
            out["y"] = 1 - out["y"]
        for name in ("N", "D", "C"):
            if name not in out:
                out[name] = np.nan
        if "C" not in self.names and {"N", "D"} <= set(self.names):
            out["C"] = 6.0 * out.N * out.D
            self.names["C"] = "6 N D"
            if self.law is None or self.law.nd({k: out[k].to_numpy() for k in self.law.inputs if k in out}) is not None:
                self.notes.append("no column of FLOPs (map one with --columns=C=<column>): C = 6 N D")
        logs = self.settings.objective != "least_squares"
        check_signs(out, self.names, done["run_id"] if self.ours else None, y_name(self.settings.metric), logs)
        return out

    def _source(self, name: str, optional: bool) -> str | None:
        """The column, or formula of columns, that `name` is read from."""
        mapped = self.columns.names.get(name)
        if mapped is not None:
            try:
                self.header.values(mapped, self.header.table.iloc[:0], [])
            except UserError as error:
                raise UserError(f"--columns={name}={error}") from None
            return mapped
        if name == "N" and self.settings.params in self.header.table:
            return self.settings.params
        if name == "N" and self.ours and not optional:
            raise UserError(f"the results table has no column {self.settings.params!r}; {self._has()}")
        if name == "y" and (self.ours or self.settings.metric != "loss"):
            if self.settings.metric in self.header.table:
                return self.settings.metric
            raise UserError(
                f"the results table has no column {self.settings.metric!r}; "
                f"{alike(self.header, self.settings.metric) or self._has()}"
            )
        try:
            found = self.header.usual(name)
        except UserError:
            if optional:
                return None
            raise
        if found is None and name == "x":
            found = self._only_input()
        if found is None and not optional:
            usual = ", ".join(u for u in USUAL_NAMES.get(name, ())[:3] if u != name and "+" not in u)
            known = f"{name} ({usual})" if usual else name
            way = way_out(self.header, name) or f"map one with --columns={name}=<column>"
            raise UserError(f"no column for {known}: {self._has()}; {way}")
        if found is not None and name == "y":
            if "train" in found.lower():
                self.notes.append(f"{found} is a training loss: no validation loss was found")
            elif others := [c for c in self.header.others("y", found) if "train" not in c.lower()]:
                self.notes.append(f"y = {found}; the table also has {listed(others)}: choose with --columns=y=<column>")
        return found

    def _has(self) -> str:
        return f"the table has {listed(self.header.table.columns, 30)}"

    def _only_input(self) -> str | None:
        """The input of a law of one input: compute in our own tables, else the only size that the table has."""
        if self.ours:
            return "flops"
        found = [f for f in (self.header.usual(name) for name in ("C", "D", "N")) if f is not None]
        varied = [f for f in found if len(set(self.header.values(f, self.header.table, []))) > 1]
        if len(varied) > 1:
            raise UserError(f"x may be {' or '.join(varied)}: choose one with --columns=x=<column>")
        if varied:
            self.notes.append(f"x = {varied[0]}, the only size in the table")
        return varied[0] if varied else None

    def _without_empty(self, values: pd.DataFrame, status: pd.Series) -> tuple[pd.DataFrame, pd.Series]:
        """Finished rows without a finite y count as diverged, aloud."""
        empty = ~np.isfinite(values.y)
        if empty.any():
            first = values.index[empty][0]
            self.notes.append(
                f"LEFT OUT {int(empty.sum())} of {len(values)} finished rows whose {self.names['y']} is empty or not "
                f"finite (first: row {first})"
            )
            status = status.copy()
            status[values.index[empty]] = states.DIVERGED
        return values[~empty], status

    def _frame(self, table: pd.DataFrame, status: pd.Series, values: pd.DataFrame) -> pd.DataFrame:
        """Every row with the columns that the analysis reads."""
        numbers = {k: values[k].reindex(table.index) for k in ("N", "D", "C", "y")}
        if self.ours:
            lost = {"N": self.settings.params, "D": "tokens", "C": "flops"}
            for name, column in lost.items():
                numbers[name] = numbers[name].fillna(pd.to_numeric(table[column], errors="coerce"))
        frame = table.assign(status=status, **numbers)
        if "U" in values:
            frame["U"] = values.U.reindex(table.index)
        if "S" in values and self.ours:  # a size that starts from training is a scale of its own
            before = seen_before(frame)
            frame["scale"] = frame["scale"].map(str).where(before == 0, frame["scale"] + " from " + before.map(short))
        if not self.ours:
            named = "run_id" in table and table["run_id"].is_unique
            frame = frame.assign(
                run_id=table["run_id"].map(str) if named else [f"row {i}" for i in table.index],
                scale=size_labels(frame.N),
                lr=self._optional("lr", table),
                seed=self._seed(table),
            )
        return frame

    def _optional(self, name: str, table: pd.DataFrame) -> pd.Series:
        try:
            found = self.header.usual(name)
            if found is not None:
                return pd.Series(self.header.values(found, table, []), index=table.index)
        except UserError:
            pass
        return pd.Series(np.nan, index=table.index)

    def _seed(self, table: pd.DataFrame) -> pd.Series:
        found = self.header.usual("seed")
        return table[found] if found is not None else pd.Series(0, index=table.index)

    def _chosen(self, frame: pd.DataFrame, values: pd.DataFrame) -> Runs:
        done = frame[frame.status == DONE].assign(_row=lambda f: f.index)
        sweep: Sweep | None = None
        tuned: Tuned | None = None
        if self.ours:
            best, tuned = winners(done)
            trunk = best["trunk_id"] if "trunk_id" in best else trunk_labels(best)
        else:
            sweep = find_sweep(done, values, self.header, self.names)
            best = done.sort_values(["C", "N"], kind="stable")
            if self.columns.best:
                law_inputs = [k for k in names_of(values) if k not in ("C", "y")]
                keyed = done.assign(**{k: values[k] for k in law_inputs})
                inputs = [k for k in law_inputs if values[k].notna().all()]
                best = best_of(keyed, [*inputs, "seed"])[list(done.columns)]
                sweep = sweep and dataclasses.replace(sweep, best_taken=True)
                if len(best) < len(done):
                    self.notes.append(f"the best of each (N, D, seed) is taken: {len(best)} of {len(done)} rows")
            elif self.header.usual("seed") is None:
                best = best.assign(seed=best.groupby(["scale", "D"], dropna=False, sort=False).cumcount())
            if len(best) > MOST_ROWS:
                self.notes.append(f"{MOST_ROWS:,} of {len(best):,} rows are fitted, evenly along compute")
                best = best.iloc[evenly(len(best), MOST_ROWS)]
            trunk = trunk_labels(best)
        best = best.assign(trunk=trunk.to_numpy())
        read = values.loc[best["_row"]]
        noise, noise_runs = seed_noise(best) if sweep is None or sweep.best_taken else (None, 0)
        corpora = self._corpora(best)
        compute = compute_note(read, self.names)
        return Runs(
            table=frame.reset_index(drop=True),
            chosen=best.reset_index(drop=True),
            inputs={k: read[k].to_numpy(float) for k in names_of(read) if k not in ("N", "D", "C", "y")},
            clusters=self._labels(best, "--cluster_column", self.columns.cluster)
            if self.columns.cluster or self.ours
            else None,
            weights=self._weights(best),
            scales=scale_table(best),
            counts=count_statuses(frame),
            noise=noise,
            noise_runs=noise_runs,
            rates=int(frame.lr.nunique()),
            repeated=most_epochs(best),
            names=self.names,
            conventions=self._conventions(best),
            notes=tuple(dict.fromkeys([*self.notes, *([compute] if compute else [])])),
            suspect_units="" if self.ours else suspect_units(read, self.names),
            corpora=corpora,
            sweep=sweep,
            tuned=tuned,
            ours=self.ours,
            curves="" if self.ours or self.columns.cluster else learning_curves(done, self.header),
        )

    def _labels(self, best: pd.DataFrame, flag: str, column: str) -> np.ndarray | None:
        if not column:
            return best["trunk"].to_numpy() if best["trunk"].nunique() != 1 else None
        found = self.header.find(column)
        if found is None:
            raise UserError(f"{flag}={column}: {self._has()}")
        return self.header.table.loc[best["_row"], found].to_numpy()

    def _weights(self, best: pd.DataFrame) -> np.ndarray | None:
        if not self.columns.weight:
            return None
        found = self.header.find(self.columns.weight)
        if found is None:
            raise UserError(f"--weight_column={self.columns.weight}: {self._has()}")
        return self.header.values(found, self.header.table.loc[best["_row"]], self.notes)

    def _corpora(self, best: pd.DataFrame) -> tuple[str, ...]:
        for name in CORPUS:
            column = self.header.find(name)
            if column is not None and best[column].nunique() > 1:
                return tuple(best[column].astype(str).unique()) if column in best else ()
        return ()

    def _conventions(self, best: pd.DataFrame) -> dict[str, np.ndarray]:
        """The other ways in which the table counts parameters, where every row has a positive number."""
        if "N" not in self.names:
            return {}
        out = {}
        counts = CONVENTIONS if self.ours else dict.fromkeys([*CONVENTIONS, *self.header.others("N", self.names["N"])])
        for column in counts:
            if column in best and column != self.names["N"]:
                values = pd.to_numeric(best[column], errors="coerce").to_numpy(np.float64)
                if np.all(np.isfinite(values) & (values > 0)) and len(np.unique(values)) > 1:
                    out[column] = values
        if out and not self.ours and "N" not in self.columns.names:
            self.notes.append(
                f"N = {self.names['N']}; the table also counts {listed(out)}: N* depends on it, --columns=N=<column>"
            )
        return out
