"""`engine="simulate"`: losses and curves drawn from a law that is known, in the records of an ordinary workdir.

Planning, fitting, checks and reports can so be tried at any compute, and their answers compared with the truth. Nothing
is trained: every row says so (columns `simulated`, `device`, `dataset_hash`), and so does the name of its analysis.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack, Run, Sweep, frame, grouped, identified, record_of, with_rungs
from scaling_jax.storage.records import DIVERGED, DONE, Records, losses_of
from scaling_jax.storage.workdir import Stored, Workdir
from scaling_jax.study import Simulation, Study, content_hash
from scaling_jax.text import plural

DEVICE = "simulated"
HOT = 0.04  # how far the constant-rate part of a curve lies above the law, as a share of the loss
POINTS, SCATTER = 60, 0.004  # of a learning curve, and the scatter of its points in ln loss
SUPPLIED = ("N", "D", "C", "U", "M", "width", "depth", "x")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run lies in its ladder, for the faults.

    Attributes:
      sizes, tokens, flops: of the whole ladder, ascending, each once.
      N, D, C: of the run.
      run_id: of the run.
      run_ids: of the whole ladder, sorted.
      top_rate: whether the run has the highest of several learning rates.
    """

    sizes: tuple[float, ...]
    tokens: tuple[float, ...]
    flops: tuple[float, ...]
    N: float
    D: float
    C: float
    run_id: str
    run_ids: tuple[str, ...]
    top_rate: bool


def _middle(values: Sequence[Any]) -> Any:
    return values[len(values) // 2]


# Name -> factor on the loss of a run; infinite for a run that diverges.
FAULTS: dict[str, Callable[[Place], float]] = {
    "scale": lambda p: 1.05 if _middle(p.sizes) == p.N else 1.0,
    "short_runs": lambda p: 1.05 if p.tokens[len(p.tokens) // 4] >= p.D else 1.0,
    "bend": lambda p: 1 + 0.003 * math.log2(p.N / p.sizes[0]) ** 2,
    "transition": lambda p: 0.94 if math.sqrt(p.flops[0] * p.flops[-1]) < p.C else 1.0,
    "outlier": lambda p: 1.07 if p.run_id == _middle(p.run_ids) else 1.0,
    "diverged": lambda p: math.inf if p.sizes[-1] == p.N and p.top_rate else 1.0,
}


def description(simulation: Simulation) -> str:
    """The law in a few words: its name, changed coefficients, faults."""
    words = [simulation.law, *(f"{name}={value:g}" for name, value in simulation.params.items())]
    faults = f" with faults {', '.join(simulation.faults)}" if simulation.faults else ""
    return " ".join(words) + faults


def law_of(simulation: Simulation) -> fitting.Fit:
    """The law with its coefficients.

    Raises:
      UserError: no such law, coefficients that are missing or wrong, inputs that no study gives, or an unknown fault.
    """
    name, params = simulation.law, dict(simulation.params)
    for fault in simulation.faults:
        if fault not in FAULTS:
            raise UserError(f"simulation.faults: no fault {fault!r}; known: {', '.join(FAULTS)}")
    try:
        if name in fitting.published:
            base = fitting.published[name]
            found = fitting.Fit.from_params(base.law, {**base.params, **params})
        elif name in fitting.laws:
            found = fitting.Fit.from_params(name, params)
        else:
            known = ", ".join([*fitting.published, *fitting.laws])
            raise UserError(f"simulation.law: no law {name!r}; known: {known}")
    except fitting.FitError as error:
        raise UserError(f"simulation.params: {error} Example: --set simulation.params.E=1.7") from error
    if lacking := [k for k in found.law.inputs if k not in SUPPLIED]:
        raise UserError(f"simulation.law: {found.law.name} is a law of {', '.join(lacking)}, which no study gives")
    return found


def run(
    study: Study,
    spec: Spec,
    packs: Sequence[Pack],
    workdir: Workdir,
    only_packs: Sequence[str] = (),
    verbose: bool = True,
) -> bool:
    """Draws the missing runs of a study; returns whether every run has its result.

    The same study gives the same losses, and a study that grows keeps those it has.

    Args:
      study: its `simulation` says from what.
      spec: what the data would look like.
      packs: of the plan, without identities.
      workdir: where records go; it must not hold trained runs.
      only_packs: names of the packs to draw; empty means all.
      verbose: whether to say on stderr what is done.

    Raises:
      UserError: the law or a fault is wrong, or the workdir holds another study.
    """
    law = law_of(study.simulation)
    simulated = dataclasses.asdict(study.simulation)
    if "U" in law.law.inputs and study.data.unique_tokens is None:
        raise UserError(f"simulation.law: {law.law.name} reads unique tokens; give --set data.unique_tokens=...")
    corpus = f"simulated-{content_hash(simulated)}"
    halving = study.sweep == "halving"
    packs = grouped(
        identified(with_rungs(packs) if halving else packs, study, spec, corpus, "float32"), workdir.packs()
    )
    sweep = Sweep(packs, halving, halving)
    chosen = [pack for pack in packs if not only_packs or pack.name in only_packs]
    stored = Stored(
        study=study.to_dict(),
        spec=dataclasses.asdict(spec),
        frame={**frame(study, spec), "simulation": {**simulated, "faults": list(study.simulation.faults)}},
        dataset_hash=corpus,
        compute_dtype="float32",
        code_version="simulated",
        device=DEVICE,
        runs=tuple(run.run_id for pack in packs for run in pack.runs if not run.rung),
        rungs=tuple(run.run_id for pack in packs for run in pack.runs if run.rung) if halving else None,
    )
    with workdir.claim(stored, {pack.name: record_of(pack) for pack in chosen}) as attempt:
        records = Records(workdir.path, attempt)
        losses, drawn = losses_of(records.finished()), 0
        while todo := [pack for pack in sweep.todo(losses) if pack.name in {one.name for one in chosen}]:
            for pack in todo:
                whole = next(one for one in packs if one.name == pack.name)
                _Drawing(study, law, packs, whole, corpus).write(records, pack, losses)
            before, losses = len(losses), losses_of(records.finished())
            drawn += len(losses) - before
        for row in sweep.stopped(losses):
            origin = {"dataset_hash": corpus, "code_version": "simulated", "device": DEVICE}
            records.write_stopped({**row, "study": study.name, "family": study.family.name, **origin})
        if verbose:
            text = f"{plural(drawn, 'run')} of {plural(len(packs), 'scale')} simulated"
            said = f"{text} from {description(study.simulation)}: nothing is trained"
            print(said, file=sys.stderr, flush=True)
        return not sweep.todo(losses)


class _Drawing:
    """The runs of one pack."""

    def __init__(self, study: Study, law: fitting.Fit, packs: Sequence[Pack], pack: Pack, corpus: str):
        self.study, self.law, self.pack, self.corpus = study, law, pack, corpus
        self.world, self.branches = study.simulation, self._branches()
        self.ladder = {
            "sizes": tuple(sorted({self._size(p) for p in packs})),
            "tokens": tuple(sorted({float(r.tokens) for p in packs for r in p.runs if not r.rung})),
            "flops": tuple(sorted({r.flops for p in packs for r in p.runs if not r.rung})),
            "run_ids": tuple(sorted(r.run_id for p in packs for r in p.runs if not r.rung)),
        }
        rates = self.rates = sorted({lane.learning_rate for lane in pack.lanes})
        self.best_rate = self.world.best_rate or math.exp(float(np.mean(np.log(rates))))
        self.steps = _curve_steps([*pack.budgets, *self.branches.values()])
        ends = np.array([*pack.budgets, *self.steps], float) * pack.tokens_per_step
        values = self._law(ends)
        self.final, self.curve = values[: len(pack.budgets)], values[len(pack.budgets) :]

    def _size(self, pack: Pack) -> float:
        return float(getattr(pack.counts, self.study.fit.params))

    def _branches(self) -> dict[int, int]:
        """Budget -> the step at which its branch leaves the trunk."""
        return {phase.budget: phase.start for phase in self.pack.phases if phase.kind == "branch"}

    def _law(self, tokens: np.ndarray) -> np.ndarray:
        N, per_token = self._size(self.pack), self.pack.counts.flops_per_token
        known = {
            "N": N, "D": tokens, "M": tokens / N, "C": tokens * per_token, "x": tokens * per_token,
            "U": float(self.study.data.unique_tokens or 1), "width": self.pack.width, "depth": self.pack.depth,
        }  # fmt: skip
        values = self.law.law(self.law.params, {name: known[name] for name in self.law.law.inputs})
        values = np.broadcast_to(values, tokens.shape)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise UserError(
                f"simulation.law: {description(self.world)} gives no positive loss at {self.pack.scale}, N = {N:.3g}"
            )
        return values

    def _normal(self, *what: Any) -> np.random.Generator:
        return np.random.default_rng(int(content_hash([self.world.seed, *what]), 16))

    def _factor(self, run: Run) -> tuple[float, float]:
        """(factor on the whole trunk, factor on this run)."""
        lane = self.pack.lanes[run.lane]
        off_rate = math.log(lane.learning_rate / self.best_rate)
        shared = self._normal("trunk", run.trunk_id).normal(0, self.world.trunk_noise)
        own = self._normal("run", run.run_id).normal(0, self.world.run_noise)
        place = Place(
            **self.ladder,
            N=self._size(self.pack),
            D=float(run.tokens),
            C=run.flops,
            run_id=run.run_id,
            top_rate=len(self.rates) > 1 and lane.learning_rate == self.rates[-1],
        )
        faults = math.prod(FAULTS[name](place) for name in self.world.faults)
        return (1 + self.world.rate_curvature * off_rate**2) * math.exp(shared), faults * math.exp(own)

    def write(self, records: Records, asked: Pack, finished: Any) -> None:
        """Writes the curves and results of the runs that are asked for and missing."""
        wanted = {run.run_id for run in asked.runs}
        for lane in range(len(self.pack.lanes)):
            runs = [run for run in self.pack.runs_of(lane) if run.run_id in wanted]
            if not runs:
                continue
            trunk_id, reach = runs[0].trunk_id, max(self.branches[run.budget] for run in runs)
            noise = self._normal("curve", trunk_id).normal(0, SCATTER, len(self.steps))
            trunk, _ = self._factor(runs[0])
            hot = self.curve * trunk * (1 + HOT) * np.exp(noise)
            records.write_points("trunks", trunk_id, _points(self.steps, hot, 0, reach))
            for run in runs:
                budget, end = run.budget, run.steps
                if run.run_id not in finished:
                    fork = self.branches[budget]
                    own = self._factor(run)[1]
                    cooled = np.clip((self.steps - fork) / max(end - fork, 1), 0, 1)
                    values = self.curve * trunk * (1 + HOT * (1 - cooled)) * np.exp(noise)
                    records.write_points("runs", run.run_id, _points(self.steps, values, fork, end))
                    records.write_result(self._row(run, self.final[budget] * trunk * own))

    def _row(self, run: Run, loss: float) -> dict[str, Any]:
        healthy, unique = math.isfinite(loss), self.study.data.unique_tokens
        return {
            **self.pack.settings(run),
            "study": self.study.name,
            "family": self.study.family.name,
            "status": DONE if healthy else DIVERGED,
            "loss": float(loss) if healthy else None,
            "dataset_hash": self.corpus,
            "code_version": "simulated",
            "wall_s": 0.0,
            "device": DEVICE,
            "simulated": description(self.world),
            "unique_tokens": unique,
            "epochs": run.tokens / unique if unique else 1.0,
            "diverged_step": None if healthy else run.steps // 2,
        }


def _curve_steps(ends: Sequence[int]) -> np.ndarray:
    """Steps at which curves have points: dense early, and where a trunk or a branch ends."""
    last = max(ends)
    return np.unique([*np.geomspace(min(20, last), last, POINTS).round().astype(int), *(end for end in ends if end)])


def _points(steps: np.ndarray, values: np.ndarray, first: int, last: int) -> list[dict[str, Any]]:
    """The points of (first, last], each since the one before."""
    inside = (steps > first) & (steps <= last)
    shown, losses = steps[inside], values[inside]
    if not len(shown):
        return []
    starts = [first, *shown[:-1]]
    return [
        {"step": int(step), "first_step": int(start), "loss": float(loss)}
        for step, start, loss in zip(shown, starts, losses)
    ]
