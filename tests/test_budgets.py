"""Budgets in all the ways in which a study can say them: IsoFLOP sweeps, device hours, a cap on memory."""

import dataclasses

import ladder
import pytest

from scaling_jax.errors import UserError
from scaling_jax.models import Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Ladder, Schedule, Study
from scaling_jax.study_file import load_study

SPEC = Spec("tokens", 256, 128)
WIDTHS = tuple(range(8, 264, 8))


def plan(schedule=None, **budgets):
    study = Study(
        name="s", family=Transformer(head_dim=8), ladder=Ladder(widths=WIDTHS, depths=(2,)),
        budgets=Budgets(**budgets), schedule=schedule or Schedule(warmup_steps=10),
    )  # fmt: skip
    return make_plan(study, SPEC)


def test_an_isoflop_sweep_is_around_the_guess_at_exact_flops():
    flops = (1e12, 4e12)
    packs = plan(flops=flops, isoflop_sizes=5, isoflop_ratio=20, isoflop_span=3, min_steps=1)
    for budget in flops:
        points = [(p.counts.params_non_embedding, r) for p in packs for r in p.runs if abs(r.flops / budget - 1) < 0.02]
        assert len(points) == 5
        ratios = [run.tokens / n for n, run in points]
        # Sizes from a third to three times the best: D/N from nine times the guess to a ninth of it.
        assert max(ratios) < 20 * 9 * 1.05 and min(ratios) > 20 / 9 / 1.05
        assert max(ratios) > 20 * 4 and min(ratios) < 20 / 4
        assert sum(ratio > 20 for ratio in ratios) in (2, 3)
        every = plan(flops=(budget,), ratio_range=(20 / 9, 180), min_steps=1)
        assert {p.scale for p in packs} < {p.scale for p in plan(flops=flops, min_steps=1)}
        assert len(points) < len(every)
    assert max(p.width for p in packs if len(p.runs) == 1) > min(p.width for p in packs if len(p.runs) == 1)


@pytest.mark.parametrize("budgets", [{"tokens": (1, 2, 4)}, {"tokens_per_param": (10, 40)}, {"flops": (1e12, 3e12)}])
def test_hours_of_a_device_are_spent(budgets):
    packs = plan(**budgets, device_hours=200, device_flops=1e11, min_steps=1)
    assert sum(pack.trained_flops for pack in packs) == pytest.approx(200 * 3600 * 1e11, rel=0.03)
    if "tokens" in budgets:
        runs = packs[0].runs
        assert [run.tokens / runs[0].tokens for run in runs] == pytest.approx([1, 2, 4], rel=0.01)


@pytest.mark.parametrize("hours", [2, 60])
def test_hours_are_spent_within_a_range_of_ratios_or_it_is_said_that_they_cannot_be(hours):
    budgets = {"flops": (1, 3, 9), "ratio_range": (5, 500), "device_hours": hours, "device_flops": 1e11, "min_steps": 1}
    packs = plan(**budgets)
    assert sum(pack.trained_flops for pack in packs) == pytest.approx(hours * 3600 * 1e11, rel=0.03)
    assert all(5 <= run.tokens / p.counts.params_non_embedding <= 501 for p in packs for run in p.runs)
    with pytest.raises(UserError, match=r"device_hours=20000: within .* the nearest that can be spent is [\d.]+ hours"):
        plan(**budgets | {"ratio_range": (10, 40), "device_hours": 20000})


@pytest.mark.parametrize(
    "budgets, match",
    [
        (
            {"tokens": (1, 2), "device_hours": 1e-4, "device_flops": 1e9},
            "fewer than budgets.min_steps|less than one batch",
        ),
        ({"flops": (1e12,), "isoflop_sizes": 3, "isoflop_ratio": 1e9}, "no scale of the ladder is within 4x"),
        ({"tokens_per_param": (20,), "max_tokens": 10}, "budgets.max_tokens=10 .* leave no budget"),
    ],
)
def test_what_cannot_be_planned(budgets, match):
    with pytest.raises(UserError, match=match) as error:
        plan(**budgets)
    assert "\n" not in str(error.value)


def test_contradictions_are_refused_in_one_line(tmp_path):
    study = f"--study={ladder.write_study(tmp_path)}"
    for sets, why in (
        (["budgets.device_hours=1"], "budgets.device_hours needs budgets.device_flops"),
        (["budgets.device_flops=1e9"], "budgets.device_flops needs budgets.device_hours"),
        (["budgets.isoflop_sizes=3"], "budgets.isoflop_sizes needs budgets.flops"),
        (["budgets.memory_gib=1e-9"], "below the smallest model"),
    ):
        code, out, err = ladder.run_here("plan", study, *(f"--set={one}" for one in sets))
        assert (code, out) == (2, "") and why in err and err.count("\n") == 1, err


def test_fields_that_need_each_other_are_set_together(tmp_path):
    study = ladder.write_study(tmp_path)
    hours, flops = "budgets.device_hours=1e-5", "budgets.device_flops=1e12"
    sets = ["budgets.isoflop_sizes=2", flops, "budgets.min_steps=1", hours, "budgets.flops=(1e7, 4e7)", "seeds=3"]
    found = load_study(study, sets)
    assert found.budgets == load_study(study, sets[::-1]).budgets
    assert (found.budgets.device_hours, found.budgets.isoflop_sizes, found.seeds) == (1e-5, 2, (3,))
    with pytest.raises(UserError, match="--set 'budgets.device_hours=1e-5'.* needs budgets.device_flops"):
        load_study(study, [hours])


def test_scales_beyond_the_memory_are_left_out(tmp_path):
    import scaling_jax as sj

    study = sj.load_study(ladder.write_study(tmp_path))
    study = dataclasses.replace(study, ladder=Ladder(widths=(8, 16, 64), depths=(1,)))
    memory = sj.plan(study).table().set_index("width").memory_bytes
    cap = float(memory[16].iloc[0]) * 1.01 / 2**30
    capped = sj.override(study, [f"budgets.memory_gib={cap}"])
    assert [pack.width for pack in sj.plan(capped).packs] == [8, 16]
