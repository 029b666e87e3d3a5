"""Rounds of a sweep: what they ask for follows from the losses alone, brackets every winner, and costs less."""

import dataclasses
import math
import random

import ladder
import packs
import pytest
from bigram import Bigram

import scaling_jax as sj
from scaling_jax.errors import UserError
from scaling_jax.planning import Sweep, expected_flops, identified, make_plan, with_rungs, without_rungs
from scaling_jax.study_file import override

RATES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
STEPS = (400, 800, 1600, 3200)


def sweep(*sets, steps=STEPS, rates=RATES, seeds=(0, 1), **changes):
    study = packs.make_study(steps, rates, seeds=seeds, family=Bigram(), sweep="halving", **changes)
    study = override(study, list(sets))
    planned = with_rungs(make_plan(study, packs.SPEC))
    return study, Sweep(identified(planned, study, packs.SPEC, "d" * 16, "float32"), True, True)


def every(found):
    """(run_id, pack, run) of the study's runs and of the rungs."""
    return [(run.run_id, pack, run) for pack in found.packs for run in pack.runs]


def trained(found, loss_of, order=None):
    """(losses by run_id, packs of each round) when every run has the loss that `loss_of(pack, run)` says."""
    known = {run_id: (pack, run) for run_id, pack, run in every(found)}
    losses, rounds = {}, []
    while todo := found.todo(losses):
        rounds.append(todo)
        new = [run.run_id for pack in todo for run in pack.runs if run.run_id not in losses]
        if order is not None:  # the attempt ends in the middle: what is asked for is the same
            order.shuffle(new)
            half = losses | {run_id: loss_of(*known[run_id]) for run_id in new[: len(new) // 2]}
            assert set(map(repr, found.todo(half))) <= set(map(repr, todo))
        losses |= {run_id: loss_of(*known[run_id]) for run_id in new}
    return losses, rounds


def curve(pack, run, falls=0.3):
    """The best rate falls with the budget; seeds differ."""
    lane = pack.lanes[run.lane]
    off = math.log(lane.learning_rate / (0.008 * (run.steps / 1000) ** -falls))
    return (2 + 50 / run.steps) * (1 + 0.02 * off**2 + 0.001 * lane.seed)


def winners(found, losses):
    """steps -> combination (everything but the seed) with the lowest sum of ln(loss), of those with every seed."""
    cells = {}
    for run_id, pack, run in every(found):
        if run_id in losses and not run.rung:
            key = (pack.batch_size, dataclasses.replace(pack.lanes[run.lane], seed=0))
            cell = cells.setdefault(run.wanted, {}).setdefault(key, [])
            cell.append(math.log(losses[run_id]))
    return {wanted: min(cell, key=lambda k: sum(cell[k])) for wanted, cell in cells.items()}


@pytest.mark.parametrize("sets", [(), ("optimizer.batch_size=(2,4,8)",), ("optimizer.weight_decays=(0,.1,.2,.3)",)])
def test_every_winner_is_that_of_the_full_sweep_at_less_cost(sets):
    study, found = sweep(*sets)

    def loss(pack, run):
        lane = pack.lanes[run.lane]
        return curve(pack, run) * (1 + 0.03 * math.log(pack.batch_size / 4) ** 2 + 0.2 * (lane.weight_decay - 0.1) ** 2)

    losses, rounds = trained(found, loss, random.Random(0))
    whole = {run_id: loss(pack, run) for run_id, pack, run in every(found)}
    assert winners(found, losses) == winners(found, whole)
    full = sum(pack.trained_flops for pack in make_plan(study, packs.SPEC))
    spent = sum(pack.trained_flops for pack in _together(found, losses))
    assert spent < (0.6 if not sets else 0.45) * full
    assert expected_flops(make_plan(study, packs.SPEC)) == pytest.approx(spent, rel=0.35)
    assert len(rounds) >= 2 and {run.rung for pack in rounds[0] for run in pack.runs} == {True}
    stopped = {row["run_id"] for row in found.stopped(losses)}
    assert stopped == {run_id for run_id, _, run in every(found) if not run.rung} - set(losses)
    assert all(row["stopped_steps"] < row["steps"] for row in found.stopped(losses))


def _together(found, losses):
    """The packs of all that was trained, whichever round it was in."""
    from scaling_jax.planning import subset

    for pack in found.packs:
        lanes = sorted({run.lane for run in pack.runs if run.run_id in losses})
        if lanes:
            yield subset(pack, lanes, lambda run: run.run_id in losses)


def test_a_best_rate_at_the_edge_of_those_left_brings_its_neighbor_back():
    _, found = sweep()
    losses, rounds = trained(found, lambda pack, run: curve(pack, run, falls=1.0))
    assert any(len(pack.lanes) == 1 for todo in rounds[3:] for pack in todo)
    for wanted, (_, lane) in winners(found, losses).items():
        i = RATES.index(lane.learning_rate)
        tried = {p.lanes[r.lane].learning_rate for k, p, r in every(found) if k in losses and r.wanted == wanted}
        assert set(RATES[max(i - 1, 0) : i + 2]) <= tried


def test_diverged_rates_stop_and_bracket():
    _, found = sweep()

    def loss(pack, run):
        return math.inf if pack.lanes[run.lane].learning_rate > 0.016 else curve(pack, run)

    losses, _ = trained(found, loss)
    lost = [run for run_id, _, run in every(found) if math.isinf(losses.get(run_id, 0.0)) and not run.rung]
    assert len(lost) <= 2 * len(STEPS)  # at most the neighbor of the best


def test_then_the_full_sweep_trains_the_rest_only():
    _, found = sweep()
    losses, _ = trained(found, curve)
    full = Sweep(found.packs, False, True)
    _, rounds = trained(full, curve)
    assert [without_rungs(pack) for pack in found.packs] == list(rounds[0])  # nothing was trained yet: all at once
    stopped, rest = {row["run_id"] for row in found.stopped(losses)}, []
    while todo := full.todo(losses):
        new = [run.run_id for pack in todo for run in pack.runs]
        assert full.todo(losses | dict.fromkeys(new[::2], 1.0)) == todo
        losses |= dict.fromkeys(new, 1.0)
        rest += new
    assert len(rest) == len(stopped) and set(rest) == stopped


def test_short_budgets_have_no_rung_and_rules_in_the_budget_choose_at_each():
    _, found = sweep(steps=(100, 200))
    assert not any(run.rung for _, _, run in every(found))
    rates = tuple(f"{r} * 300 / S" for r in RATES)
    _, found = sweep(steps=(400, 1000), rates=rates, seeds=(0,))
    losses, rounds = trained(found, curve)
    assert {len(pack.lanes) for pack in rounds[0]} == {2 * len(RATES)}
    assert sum(not run.rung for run_id, _, run in every(found) if run_id in losses) < 2 * len(RATES) * 0.7


@pytest.mark.parametrize("rates", [(0.01,), (0.01, 0.02)])
def test_nothing_to_choose_among(rates):
    with pytest.raises(UserError, match=f"there (is|are) {len(rates)}: list 3 or more, e.g. of optimizer.learning_ra"):
        make_plan(packs.make_study(rates=rates, sweep="halving"), packs.SPEC)


def test_the_sweep_is_no_part_of_an_identity():
    for sets in ((), ("optimizer.batch_size=(2,4)",)):
        study, found = sweep(*sets)
        plain = make_plan(dataclasses.replace(study, sweep="full"), packs.SPEC, "d" * 16, "float32")
        assert [without_rungs(pack) for pack in found.packs] == list(plain)


def test_a_simulated_study_in_rounds(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    study = f"--study={ladder.write_study(tmp_path)}"
    sets = ["sweep=halving", "optimizer.learning_rates=(.005,.01,.02,.04,.08)", "ladder.widths=(8,16,24,32)"]
    sets += ["budgets.tokens=(16000,32000,64000)", "seeds=(0,1)", "fit.law=power", "simulation.rate_curvature=0.05"]
    args = [study, "--engine=simulate", *(f"--set={one}" for one in sets)]
    code, out, err = ladder.run_here("plan", study, *(f"--set={one}" for one in sets))
    assert code == 0 and "sweep=halving is expected to train" in out, err
    few = [
        study,
        *args[2:],
        "--set=budgets.tokens=4000",
        "--set=budgets.min_steps=1",
        "--set=schedule.cooldown_fraction=(0.1,0.2)",
    ]
    code, out, err = ladder.run_here("plan", *few)
    assert code == 0 and "halving is expected to stop nothing" in out and "lanes each with 2 cool-downs" in out, err
    code, out, err = ladder.run_here("run", *args, f"--workdir={tmp_path / 'w'}")
    assert code == 0, err
    table = sj.load(tmp_path / "w").table
    stopped = table[table.status == "stopped"]
    assert len(table) == 4 * 3 * 5 * 2 and 0.2 * len(table) < len(stopped) < 0.5 * len(table)
    assert stopped.loss.isna().all() and (stopped.stopped_steps < stopped.steps).all()
    seen = stopped.stopped_steps > 0  # the first seed has a rung
    assert (stopped.stopped_loss[seen] > 0).all() and set(stopped.seed[~seen]) == {1}
    found = sj.load(tmp_path / "w").analysis
    assert f"{len(stopped)} runs of weak combinations stopped early" in " ".join(found.runs.notes)
    assert found.runs.counts["failed"] == 0 and len(found.runs.table) == len(table) - len(stopped)
    code, out, err = ladder.run_here("run", *args, "--set=sweep=full", f"--workdir={tmp_path / 'w'}")
    full = sj.load(tmp_path / "w").table
    assert code == 0 and set(full.status) == {"done"} and len(full) == len(table), err
    done = table[table.status == "done"].merge(full, on="run_id")
    assert (done.loss_x == done.loss_y).all()
    code, out, err = ladder.run_here("plan", study, "--set=sweep=havling")
    assert code == 2 and "sweep" in err and "'full' or 'halving'" in err and err.count("\n") == 1, err
