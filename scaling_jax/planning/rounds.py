"""Rounds of a sweep: weak combinations of what is tuned stop early, good ones go on (`Study.sweep` = "halving").

The levels of a scale are its budgets, ascending, below them a rung: a run of the first seed to `RUNG` of the shortest
budget, with a cool-down of its own, since losses at a constant rate favor low rates. Every combination is trained to
the first level.
From level to level the better half goes on (successive halving, arXiv:1502.07943), and always the best one with its
neighbors in every list, so that the best is inside what was tried. Where at some budget the best is at the edge of
those that are left, its neighbor there goes on from where it stopped. What is asked for so depends on the losses of
finished runs alone, and a round is decided when the one before is done: a resumed study repeats every decision.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaling_jax.errors import UserError
from scaling_jax.planning.identities import subset
from scaling_jax.planning.pack import Pack, Run, arranged

RUNG = 0.25  # of the shortest budget
LEAST_STEPS, WARMUPS = 50, 2.0  # a rung has at least so many steps, and so many times its warm-up
TINY = 1e-300  # a loss of 0 has a logarithm, too
FEWEST = 3  # combinations: of two, each is the other's neighbor

Place = tuple[int, int, int]  # indices of a run's pack, lane and budget
Combination = tuple[float, ...]
Level = dict[Combination, list[Place]]  # the runs of each combination: one per seed


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The packs of a study in the order in which they are trained: at once, or in rounds.

    Attributes:
      packs: of the study, with rungs (`with_rungs`) where it is or was trained in rounds.
      halving: whether weak combinations stop.
      rounds: whether there are rounds at all; False trains every pack at once.
    """

    packs: tuple[Pack, ...]
    halving: bool = False
    rounds: bool = False

    def todo(self, losses: Mapping[str, float]) -> tuple[Pack, ...]:
        """The packs to train now, of the lanes and runs that are asked for; () when nothing is left.

        Args:
          losses: validation losses of the finished runs by run_id; infinite for those that diverged.
        """
        if not self.rounds:
            return tuple(pack for pack in map(without_rungs, self.packs) if _missing(pack, losses))
        out: list[Pack] = []
        for packs in _by_scale(self.packs):
            there = _placed(packs, losses)
            found, done = _rounds(packs, there)
            if done and not self.halving:
                asked = set().union(*found)
                left = _by_progress({place for place in _results(packs) if place not in asked}, asked)
                found = next(([part] for part in left if not part <= there.keys()), [])
            elif not self.halving:  # the halving before was not finished
                found = [set(_results(packs))]
            out += _restricted(packs, found[-1]) if found else ()
        return tuple(pack for pack in out if _missing(pack, losses))

    def stopped(self, losses: Mapping[str, float]) -> list[dict[str, Any]]:
        """Rows of the runs that nothing asks for any more, with the lane's longest run that has its result."""
        out: list[dict[str, Any]] = []
        for packs in _by_scale(self.packs) if self.halving else ():
            found, done = _rounds(packs, _placed(packs, losses))
            asked = set().union(*found)
            for place in _results(packs) if done else ():
                pack = packs[place[0]]
                run = pack.run(*place[1:])
                if place not in asked and run.run_id not in losses:
                    before = [r for r in pack.runs_of(run.lane) if r.run_id in losses and r.steps < run.steps]
                    last = max(before, key=lambda r: r.steps, default=None)
                    at: dict[str, Any] = {"stopped_steps": 0}
                    if last is not None:
                        loss = losses[last.run_id]
                        at = {"stopped_steps": last.steps, "stopped_loss": loss if math.isfinite(loss) else None}
                    out.append({**pack.settings(run), "status": "stopped", **at})
        return out


def with_rungs(packs: Iterable[Pack]) -> tuple[Pack, ...]:
    """The packs with a rung for every lane, where the shortest budgets are long enough to have one."""
    out: list[Pack] = []
    for alike in _by_scale(packs):
        added: dict[int, list[tuple[Run, int, float]]] = {}
        for levels in _groups(alike):
            firsts = [places[0] for places in levels[0].values()]
            rungs = [_rung(alike[p], alike[p].run(lane, budget)) for p, lane, budget in firsts]
            if all(steps is not None for steps in rungs):
                for (p, lane, budget), steps in zip(firsts, rungs):
                    run, cooldown = alike[p].run(lane, budget), alike[p].cooldowns[budget]
                    added.setdefault(p, []).append((run, steps or 0, cooldown))
        out += [_extended(pack, added.get(p, ())) for p, pack in enumerate(alike)]
    return tuple(out)


def without_rungs(pack: Pack) -> Pack:
    """The pack as the study asks for it."""
    if not any(run.rung for run in pack.runs):
        return pack
    return subset(pack, range(len(pack.lanes)), lambda run: not run.rung)


def expected_flops(packs: Sequence[Pack]) -> float:
    """FLOPs of the rounds where the best of every list is in its middle."""
    total = 0.0
    for alike in _by_scale(with_rungs(packs)):
        losses: dict[Place, float] = {}
        for levels in _groups(alike):
            for level in levels:
                lists = [sorted(set(values)) for values in zip(*level)]
                for combination, places in level.items():
                    off = sum((v.index(x) - (len(v) - 1) / 2) ** 2 for v, x in zip(lists, combination))
                    losses |= dict.fromkeys(places, 1.0 + off)
        found, _ = _rounds(alike, losses)
        total += sum(pack.trained_flops for pack in _restricted(alike, set().union(*found)))
    return total


def check(packs: Iterable[Pack]) -> None:
    """Raises UserError where there is nothing to choose among."""
    most = max(len(level) for alike in _by_scale(packs) for levels in _groups(alike) for level in levels)
    if most < FEWEST:
        raise UserError(
            f"sweep='halving' keeps the best combination and its neighbors, and there {'is' if most == 1 else 'are'} "
            f"{most}: list {FEWEST} or more, e.g. of optimizer.learning_rates, or set sweep=full"
        )


def _by_scale(packs: Iterable[Pack]) -> list[list[Pack]]:
    out: dict[str, list[Pack]] = {}
    for pack in packs:
        out.setdefault(pack.scale, []).append(pack)
    return list(out.values())


def _groups(packs: Sequence[Pack]) -> list[list[Level]]:
    """The levels of one scale; several where rules in the budget give every budget combinations of its own."""
    groups: dict[tuple[float, ...], list[Level]] = {}
    for p, pack in enumerate(packs):
        for i, lane in enumerate(pack.lanes):
            values = {field.name: getattr(lane, field.name) for field in dataclasses.fields(lane)}
            del values["seed"], values["start"]  # it goes with the seed
            by_cooldown: dict[float, list[Run]] = {}
            for run in pack.runs_of(i):
                by_cooldown.setdefault(pack.cooldowns[run.budget], []).append(run)
            for cooldown, runs in by_cooldown.items():
                runs = sorted(runs, key=lambda run: run.steps)
                wanted = tuple(run.wanted for run in runs if not run.rung)
                levels = groups.setdefault(wanted, [{} for _ in (None, *wanted)])
                combination = (float(pack.batch_size), cooldown, *(float(v or 0.0) for v in values.values()))
                for level, run in zip(levels if runs[0].rung else levels[1:], runs):
                    level.setdefault(combination, []).append((p, i, run.budget))
    return [[level for level in levels if level] for levels in groups.values()]


def _asked(levels: Sequence[Level], losses: Mapping[Place, float]) -> set[Place]:
    """The runs of one group that these losses ask for; the losses of some of them are not known yet."""
    asked: set[Place] = set()
    going_on = set(levels[0])
    for level in levels:
        wanted, near = set(), going_on
        while not near <= wanted:
            wanted |= near
            places = {place for combination in wanted for place in level[combination]}
            asked |= places
            if not all(place in losses for place in places):
                return asked
            means = {c: sum(math.log(max(losses[p], TINY)) for p in level[c]) / len(level[c]) for c in wanted}
            ranked = sorted(means, key=lambda c: (means[c], c))
            near = {ranked[0], *_neighbors(ranked[0], level)}
        going_on = near | set(ranked[: len(ranked) // 2])
    return asked


def _neighbors(combination: Combination, level: Level) -> list[Combination]:
    """The combinations next to one in each list, all else equal."""
    out = []
    for i, value in enumerate(combination):
        line = {c[i]: c for c in level if c[:i] == combination[:i] and c[i + 1 :] == combination[i + 1 :]}
        at = sorted(line)
        j = at.index(value)
        out += [line[v] for v in (*at[max(j - 1, 0) : j], *at[j + 1 : j + 2])]
    return out


def _rounds(packs: Sequence[Pack], losses: Mapping[Place, float]) -> tuple[list[set[Place]], bool]:
    """(the runs of every round of one scale up to now, whether nothing is left)."""
    groups, out, known = _groups(packs), [], {}
    while new := set().union(*(_asked(levels, known) for levels in groups)) - known.keys():
        for part in _by_progress(new, known):
            out.append(part)
            if not part <= losses.keys():
                return out, False
        known |= {place: losses[place] for place in new}
    return out, True


def _by_progress(places: Iterable[Place], before: Iterable[Place]) -> list[set[Place]]:
    """The runs of lanes that have come equally far, least first: one program goes on with all of its lanes."""
    reached: dict[tuple[int, int], int] = {}
    for p, lane, budget in before:
        reached[p, lane] = max(budget, reached.get((p, lane), -1))
    parts: dict[int, set[Place]] = {}
    for place in places:
        parts.setdefault(reached.get(place[:2], -1), set()).add(place)
    return [parts[budget] for budget in sorted(parts)]


def _placed(packs: Sequence[Pack], losses: Mapping[str, float]) -> dict[Place, float]:
    runs = [((p, run.lane, run.budget), run.run_id) for p, pack in enumerate(packs) for run in pack.runs]
    return {place: losses[run_id] for place, run_id in runs if run_id in losses}


def _results(packs: Sequence[Pack]) -> list[Place]:
    """The runs that the study asks for."""
    return [(p, run.lane, run.budget) for p, pack in enumerate(packs) for run in pack.runs if not run.rung]


def _restricted(packs: Sequence[Pack], places: set[Place]) -> list[Pack]:
    """The packs with these runs only."""
    out = []
    for p, pack in enumerate(packs):
        lanes = sorted({lane for q, lane, _ in places if q == p})
        if lanes:
            out.append(subset(pack, lanes, lambda run, p=p: (p, run.lane, run.budget) in places))
    return out


def _missing(pack: Pack, losses: Mapping[str, float]) -> bool:
    return any(run.run_id not in losses for run in pack.runs)


def _rung(pack: Pack, run: Run) -> int | None:
    """Steps of the rung below a run; None where they would be too few."""
    steps, warmup = round(RUNG * run.steps), pack.lanes[run.lane].warmup_steps
    return steps if steps >= max(LEAST_STEPS, WARMUPS * warmup) else None


def _extended(pack: Pack, rungs: Sequence[tuple[Run, int, float]]) -> Pack:
    """The pack with further runs: (the run that each is below, its steps, its cool-down)."""
    runs = {(run.lane, run.steps, pack.cooldowns[run.budget]): run for run in pack.runs}
    for run, steps, cooldown in rungs:
        share = steps / run.steps
        runs[run.lane, steps, cooldown] = dataclasses.replace(
            run, steps=steps, tokens=steps * pack.tokens_per_step, flops=run.flops * share,
            flops_6nd=run.flops_6nd * share, wanted=RUNG * run.wanted, rung=True,
        )  # fmt: skip
    return arranged(pack, runs)
