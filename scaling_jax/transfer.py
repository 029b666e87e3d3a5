"""Does what is tuned on a small scale serve the large ones? The coordinate check, and the best rate of every scale."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import analysis, api, data
from scaling_jax.charts import Axis, Chart, Mark, Panel, picture_of, scale_color
from scaling_jax.engines import attempt
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import write_atomic
from scaling_jax.storage.records import load_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Budgets, Fit, Study
from scaling_jax.training import coordinates, hardware

FLAT = 0.25  # |d ln(change) / d ln(width)| of a parametrization that transfers; standard ones reach .5 to 1
MOVES = 2.0  # factor by which a best rate that transfers may move over the ladder
FACTORS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # rates that are tried where the study does not list three
MIN_RATES = 3


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What `check` found.

    Attributes:
      coordinates: columns width, depth, array, size, change; see `training.coordinates.measure`.
      optima: one row per scale: scale, N, width, depth, lr (the best), inside (whether neighbors bracket it).
      rates: one row per scale and rate: scale, width, lr, loss (mean over seeds).
      parametrization: of the study.
    """

    coordinates: pd.DataFrame
    optima: pd.DataFrame
    rates: pd.DataFrame
    parametrization: str

    @property
    def moved(self) -> float:
        """Factor, at least 1, by which the best rate moves from the smallest to the largest scale: a power law in N."""
        log_n = np.log(self.optima.N.to_numpy(float))
        slope = np.polyfit(log_n, np.log(self.optima.lr.to_numpy(float)), 1)[0]
        return float(np.exp(abs(slope) * np.ptp(log_n)))

    @property
    def spread(self) -> float:
        """Largest over smallest best rate: `moved`, and the scatter of single scales."""
        return float(self.optima.lr.max() / self.optima.lr.min())

    def worst(self, along: str) -> tuple[str, float] | None:
        """(array, slope) of the change that grows or shrinks fastest with "width" or "depth"; None for a single one."""
        found = coordinates.slopes(self.coordinates, along, "change")
        return None if not len(found) else (str(found.abs().idxmax()), float(found.iloc[int(found.abs().argmax())]))

    def sentences(self) -> list[str]:
        """The verdict in words."""
        out = []
        for along, way in (("width", "mup"), ("depth", "completep")):
            if (worst := self.worst(along)) is None:
                continue
            flat = abs(worst[1]) <= FLAT
            verb = "are of one size at every" if flat else "change with the"
            out.append(f"updates {verb} {along}: the steepest is {worst[0]}, as {along}^{worst[1]:.2f}")
            if not flat and self.parametrization != "completep" and (along == "depth" or self.parametrization != way):
                out[-1] += f"; --set parametrization.name={way} is made to keep it"
        first, last = self.optima.iloc[0], self.optima.iloc[-1]
        span = (
            f"the best rate moves {self.moved:.2g}x from {first.scale} ({first.lr:.3g}) to {last.scale} ({last.lr:.3g})"
        )
        if len(self.optima) > 2:
            span += " by its trend"
        if not self.optima.inside.all():
            edge = self.optima[~self.optima.inside]
            span += f"; at {', '.join(edge.scale)} it is the lowest or highest of those tried, so it may move further"
        if self.moved > MOVES:
            verdict = "it does not transfer: tune it at every scale"
        elif self.spread > MOVES:
            lr = self.optima.set_index("scale").lr
            verdict = (
                f"no trend, but single scales differ by {self.spread:.2g}x, from {lr.idxmin()} ({lr.min():.3g}) to "
                f"{lr.idxmax()} ({lr.max():.3g}), as noise between seeds makes them: add seeds"
            )
        else:
            verdict = "it transfers"
        return [*out, f"{span}: {verdict} (at most {MOVES:g}x)"]

    def charts(self) -> tuple[Chart, Chart]:
        """The coordinate check, and loss against rate at every scale."""
        return _coordinate_chart(self.coordinates), _rate_chart(self.rates, self.optima)


def check(
    study: Study, workdir: Any, num_steps: int = 5, tokens: float | None = None, verbose: bool = True
) -> Transfer:
    """Runs both checks; the sweep of rates resumes like any run. Pictures and transfer.json are written to the workdir.

    Args:
      study: to be checked. Where it lists fewer than three rates, seven around its own are tried.
      workdir: for the sweep (`rates/`) and the pictures.
      num_steps: updates of the coordinate check.
      tokens: of each run of the sweep; by default the study's smallest budget.
      verbose: print progress on stderr.

    Raises:
      UserError: the study cannot be trained, has one scale, or every run of the sweep diverged.
    """
    if len(study.ladder.scales()) < 2:
        raise UserError("check-transfer compares scales, and ladder.widths has one; add a wider one")
    if study.init.from_workdir is not None:
        raise UserError("check-transfer starts from fresh parameters: give --set init.from_workdir=none")
    if num_steps < 1:
        raise UserError(f"--steps={num_steps}: at least one update")
    sweep = sweep_of(study, tokens)
    planned = api.plan(sweep, force=True)
    place = Workdir(Workdir(workdir).path / "rates")
    attempt.train(
        attempt.Attempt(sweep, planned.spec, planned.packs, place, (), None, None, verbose), finish=lambda: None
    )
    runs = analysis.read_runs(load_table(place.path), None, sweep.fit)
    if not len(runs.chosen) or runs.tuned is None:
        raise UserError("every run of the sweep diverged; lower optimizer.learning_rates")
    widths = runs.table.drop_duplicates("scale").set_index("scale")[["width", "depth"]]
    optima = runs.tuned.optima.sort_values("N")[["scale", "N", "lr", "inside"]]
    optima = optima.join(widths, on="scale").reset_index(drop=True)
    done = runs.table[runs.table.status == "done"]
    rates = done.groupby(["scale", "width", "lr"]).y.mean().rename("loss").reset_index()
    sizes = coordinates.measure(study, data.load(study.data), scales_of(study), num_steps, study.seeds[:2])
    found = Transfer(sizes, optima, rates, study.parametrization.name)
    for chart in found.charts():
        write_atomic(place.path.parent / f"{chart.name}.png", picture_of(chart))
    content = {
        "verdict": found.sentences(), "moved": found.moved, "spread": found.spread, "optima": optima.to_dict("records"),
        "coordinates": sizes.to_dict("records"), "device": hardware.describe(),
    }  # fmt: skip
    write_atomic(place.path.parent / "transfer.json", json.dumps(content, indent=1, default=float))
    return found


def sweep_of(study: Study, tokens: float | None = None) -> Study:
    """The study of the sweep: every scale at its smallest budget, and at least three rates."""
    packs = api.plan(study, force=True).packs
    budget = tokens or min(run.tokens for pack in packs for run in pack.runs)
    rates = tuple(dict.fromkeys(lane.learning_rate for lane in packs[0].lanes))
    if len(rates) < MIN_RATES:
        middle = float(np.exp(np.mean(np.log(rates))))
        rates = tuple(float(f"{middle * factor:.6g}") for factor in FACTORS)
    return dataclasses.replace(
        study,
        budgets=Budgets(tokens=(budget,), min_steps=1),
        optimizer=dataclasses.replace(study.optimizer, learning_rates=rates),
        fit=Fit(law="power", bootstrap=0),
    )


def scales_of(study: Study) -> list[tuple[int, int]]:
    """Every width of the ladder at its smallest depth, and every depth at its smallest width."""
    scales = study.ladder.scales()
    width, depth = min(w for w, _ in scales), min(d for _, d in scales)
    return [*dict.fromkeys([*((w, depth) for w, _ in scales), *((width, d) for _, d in scales)])]


def _coordinate_chart(sizes: pd.DataFrame) -> Chart:
    panels = []
    for along, other in (("width", "depth"), ("depth", "width")):
        rows = sizes[sizes[other] == sizes[other].min()]
        if rows[along].nunique() < 2:
            continue
        names = list(dict.fromkeys(rows.array))
        for column, title in (("size", "activations"), ("change", "what updates change")):
            marks = []
            for i, name in enumerate(names):
                line = rows[(rows.array == name) & (rows[column] > 0)].sort_values(along)
                color = scale_color(i, len(names))
                marks.append(Mark("line", line[along], line[column], name=name, color=color))
                marks.append(Mark("points", line[along], line[column], color=color))
            panels.append(
                Panel(
                    Axis(along, log=True), Axis("root mean square", log=True), tuple(marks), f"{title} against {along}"
                )
            )
    caption = (
        "Under a parametrization that transfers, what a few updates change is of one size at every width and depth."
    )
    return Chart("coordinates", "Coordinate check", caption, tuple(panels))


def _rate_chart(rates: pd.DataFrame, optima: pd.DataFrame) -> Chart:
    marks = []
    for i, best in enumerate(optima.itertuples()):
        line, color = rates[rates.scale == best.scale].sort_values("lr"), scale_color(i, len(optima))
        lowest = float(line.loss.min())
        marks.append(Mark("line", line.lr, line.loss, name=str(best.scale), color=color, scale=str(best.scale)))
        marks.append(Mark("points", line.lr, line.loss, color=color, scale=str(best.scale)))
        marks.append(Mark("points", [best.lr], [lowest], color=color, symbol="star", size=12, scale=str(best.scale)))
    panel = Panel(Axis("learning rate at the base width", log=True), Axis("validation loss"), tuple(marks))
    caption = (
        "Loss against the learning rate at every scale; stars are the best, interpolated where neighbors bracket it."
    )
    return Chart("rates", "The best rate of every scale", caption, (panel,))
