"""Batch size, rates, decay, beta2, warm-up and cool-down as numbers, lists and rules in N and D."""

import dataclasses

import numpy as np
import packs
import pytest

from scaling_jax import rules
from scaling_jax.engines import base
from scaling_jax.errors import UserError
from scaling_jax.models import Transformer
from scaling_jax.planning import grouped, make_plan, record_of
from scaling_jax.study import Ladder, Optimizer, Schedule, Study
from scaling_jax.study_file import override

T = packs.CONTEXT
AT = {"N": 108e6, "D": 2e9, "T": 2048.0, "B": 160.0, "S": 1e4}


def ids(*settings, **study):
    base = packs.make_study(family=Transformer(head_dim=8), **({"rates": (0.02,)} | study))
    planned = make_plan(override(base, settings), packs.SPEC, "d" * 16)
    return {run.run_id for pack in planned for run in pack.runs}


@pytest.mark.parametrize(
    "setting, quantity, wanted",
    [
        ("olmo", "batch_size", 160),
        ("olmo", "learning_rate", 0.0047),
        ("step_law", "batch_size", round(0.58 * 2e9**0.571 / 2048)),
        ("step_law", "learning_rate", 1.79 * 108e6**-0.713 * 2e9**0.307),
        ("2 * step_law", "learning_rate", 2 * 1.79 * 108e6**-0.713 * 2e9**0.307),
        (rules.Rule("olmo", base=8, N=108e6 / 8), "batch_size", 32),  # 8 x 8^(2/3)
        (rules.Rule("sqrt", base=8, D=5e8), "batch_size", 16),
        (rules.Rule("sqrt", base=0.01, B=40), "learning_rate", 0.02),
        (rules.Rule("N^-0.5", base=0.01, N=4 * 108e6), "weight_decay", 0.02),
        ("0.1 * S", "warmup_steps", 1000),
        ("1 - B * T / D", "b2", 1 - 160 * 2048 / 2e9),
        (0.3, "cooldown_fraction", 0.3),
    ],
)
def test_a_rule_is_a_number_at_each_run(setting, quantity, wanted):
    assert rules.resolve(rules.check(setting, quantity), quantity, AT, "") == pytest.approx(wanted, rel=1e-5)


def test_a_rule_of_the_user():
    @rules.register("mine", "learning_rate")
    def mine(N, B):
        return 0.01 * (B / 160) ** 0.5 * (N / 108e6)

    try:
        assert Optimizer(learning_rates=("mine", "mine / 2")).learning_rates == ("mine", "mine / 2")
        assert rules.resolve("mine / 2", "learning_rate", AT, "") == 0.005
        with pytest.raises(UserError, match="may read N, D, T, not 'B'"):
            rules.register("mine", "batch_size")(mine)
    finally:
        del rules._RULES["mine", "learning_rate"]
        rules._formula.cache_clear()
    with pytest.raises(UserError, match="'dropout' cannot follow a rule"):
        rules.register("mine", "dropout")
    with pytest.raises(UserError, match="an identifier other than N, D"):
        rules.register("N", "batch_size")


def test_what_resolves_to_the_same_numbers_is_the_same_run():
    tokens = {steps * packs.BATCH * T for steps in (20, 40)}
    assert ids() == ids("optimizer.batch_size=(4,)") == ids("optimizer.batch_size=2+2")
    assert ids() == ids("optimizer.batch_size={'rule': 'sqrt', 'base': 4}")
    assert ids() == ids(f"optimizer.learning_rates=0.02 * D / max(D, {min(tokens)})")
    assert ids() == ids("schedule.warmup_steps=min(5, S)", "optimizer.b2=(0.95,)", "schedule.cooldown_fraction=1/5")
    assert len(ids("schedule.warmup_steps=S / 4") & ids()) == 1  # 5 of 20 steps, but 10 of 40


def test_arrays_of_numbers_are_lists_of_numbers():
    given = Optimizer(learning_rates=np.array([0.5, 0.25]), batch_size=np.int64(4), weight_decays=np.float32(0.5))
    assert given == Optimizer(learning_rates=(0.5, 0.25), batch_size=4, weight_decays=(0.5,))
    for several in (np.array([2, 4]), range(2, 5, 2)):
        assert Optimizer(batch_size=several) == Optimizer(batch_size=(2, 4))
    assert type(given.batch_size) is int and {type(rate) for rate in given.learning_rates} == {float}
    for wrong in (np.array([]), np.array([[0.1]]), np.array([0.1, np.nan]), np.bool_(True)):
        with pytest.raises(UserError, match="learning_rates"):
            Optimizer(learning_rates=wrong)


def test_workdirs_from_before_there_were_rules_are_continued():
    assert ids(steps=(20,)) == {"97b90db09e5ab985"}
    assert ids("optimizer.name=lion", "schedule.name=cosine", steps=(20,)) == {"d116796096a8246f"}


def test_what_shares_a_program_shares_a_pack():
    study = packs.make_study(rates=(0.01, 0.02), seeds=(0, 1))
    study = override(
        study, ["schedule.warmup_steps=(3, 5)", "optimizer.b2=(0.9, 0.95)", "optimizer.weight_decays=(0,1)"]
    )
    (pack,) = make_plan(study, packs.SPEC)
    assert (len(pack.lanes), len(set(pack.lanes)), pack.name) == (32, 32, "w16-d1")
    study = override(study, ["optimizer.batch_size=(2, 4)", "schedule.cooldown_fraction=(0.1, 0.5)"])
    split = make_plan(study, packs.SPEC)
    assert [pack.name for pack in split] == ["w16-d1-b2", "w16-d1-b4"]
    base.check_names(split, ["w16-d1-b4", "w16-d1-b2-2"])
    assert {run.tokens for pack in split for run in pack.runs} == {20 * 4 * T, 40 * 4 * T}
    for pack, factor in zip(split, (2, 1)):  # cool-downs share the trunk, which they leave in the order of their forks
        branches = [(phase.start, phase.stop) for phase in pack.phases if phase.kind == "branch"]
        assert branches == [(factor * a, factor * b) for a, b in ((10, 20), (18, 20), (20, 40), (36, 40))]
        assert sum(phase.stop - phase.start for phase in pack.phases if phase.kind == "trunk") == 36 * factor


def test_a_rule_in_the_budget_gives_every_budget_lanes_of_its_own():
    study = override(packs.make_study(steps=(20, 40, 80), rates=("0.1 / S", 0.02)), ["schedule.warmup_steps=2"])
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    taken = {(pack.lanes[run.lane].learning_rate, run.steps) for run in pack.runs}
    assert taken == {(0.005, 20), (0.0025, 40), (0.00125, 80), *((0.02, steps) for steps in (20, 40, 80))}
    assert [len(phase.lanes) for phase in pack.phases] == [4, 2, 3, 2, 2, 2]
    per_step = pack.tokens_per_step * pack.counts.flops_per_token
    assert pack.trained_flops == per_step * (4 * 16 + 2 * 4 + 3 * 16 + 2 * 8 + 2 * 32 + 2 * 16)
    with pytest.raises(KeyError):
        pack.run(0, 1)
    # A grown study keeps the lanes where they are.
    larger = override(study, ["optimizer.batch_size=(4, 8)", "budgets.min_steps=1"])
    planned = grouped(make_plan(larger, packs.SPEC, "d" * 16), {pack.name: record_of(pack)})
    assert [p.name for p in planned] == ["w16-d1", "w16-d1-b8"]
    assert {run.run_id for run in pack.runs} == {run.run_id for run in planned[0].runs}


def test_batches_of_a_scale_follow_its_size():
    ladder = Ladder(widths=(16, 64), depths=(1,))
    study = dataclasses.replace(packs.make_study(family=Transformer(head_dim=8)), ladder=ladder)
    study = override(study, ["optimizer.batch_size={'rule': 'olmo', 'base': 2, 'N': 3000}", "schedule.warmup_steps=1"])
    small, large = make_plan(study, packs.SPEC)
    counts = [pack.counts.params_non_embedding for pack in (small, large)]
    assert [small.batch_size, large.batch_size] == [round(2 * (n / 3000) ** (2 / 3)) for n in counts]


BOTH = {"b2": (0.9, 0.99)}
EVERY = packs.make_study(steps=(20, 40), rates=(0.02, 0.01), optimizer=BOTH, seeds=(0,))
BY_RULE = packs.make_study(steps=(20, 40), rates=("0.4 / S",), optimizer=BOTH, seeds=(0,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(program of every rate to every budget, its results)."""
    program = packs.make_program(EVERY, steps=64)
    return program, packs.train(EVERY, tmp_path_factory.mktemp("whole"), program)


@pytest.mark.parametrize("layout", ["vmap", "map"])
def test_lanes_of_different_length_train_as_they_do_together(layout, whole, tmp_path):
    program = packs.make_program(BY_RULE, layout, steps=64)
    got = packs.train(BY_RULE, tmp_path, program)
    assert {(row["lr"], row["steps"], row["b2"]) for row in got.values()} == {
        (0.02, 20, 0.9), (0.02, 20, 0.99), (0.01, 40, 0.9), (0.01, 40, 0.99),
    }  # fmt: skip
    for run_id, row in got.items():
        np.testing.assert_allclose(row["loss"], whole[1][run_id]["loss"], rtol=2e-5)
        assert (row["warmup_steps"], row["cooldown_fraction"]) == (5, 0.2)
    assert len({round(row["loss"], 6) for row in whole[1].values()}) == 8
    # A lane that stopped early goes on from where it was: checkpoints hold only the lanes that came that far.
    grown = packs.train(EVERY, tmp_path, whole[0], attempt=1)
    for run_id, row in whole[1].items():
        np.testing.assert_allclose(grown[run_id]["loss"], row["loss"], rtol=2e-5)


def test_json_and_back():
    optimizer = Optimizer(
        batch_size=rules.Rule("sqrt", base=8, D=1e6),
        learning_rates=("olmo", 0.1),
        b2=(0.9, "1 - 1 / S"),
        weight_decays=1,
    )
    schedule = Schedule(warmup_steps=["0.1 * S", 10], cooldown_fraction=(0.1, 0.3))
    study = dataclasses.replace(packs.make_study(), optimizer=optimizer, schedule=schedule)
    assert Study.from_json(study.to_json()) == study
    assert study.schedule.warmup_steps == ("0.1 * S", 10)


@pytest.mark.parametrize(
    "settings, match",
    [
        (["optimizer.batch_size=N / 1e9"], r"batch_size at scale w16-d1, budgets.tokens=640: the rule .* 0 is not in"),
        (["optimizer.batch_size=1 / (N - N)"], "inf is not finite"),
        (["optimizer.batch_size=sqrt"], "rule 'sqrt' needs a base"),
        (["optimizer.batch_size=olmoo"], "did you mean 'olmo'"),
        (["optimizer.batch_size=B + 1"], r"'B \+ 1' is not a rule of batch_size"),
        (["optimizer.learning_rates=__import__('os')"], "is not a rule of learning_rate"),
        (["optimizer.learning_rates=-D"], "-640.0 is not in"),
        (["optimizer.b2=1.5"], "1.5 is not in"),
        (["optimizer.b2=(0.9, 0.9)"], "the same value is listed twice"),
        (["optimizer.b2=(0.9, 0.95)", "optimizer.name=lion"], "'lion' does not read it"),
        (["schedule.cooldown_fraction=(0.1, 0.2)", "schedule.name=cosine"], "has no cool-down"),
        (["schedule.warmup_steps=S"], "no step is left after schedule.warmup_steps=20"),
        (["optimizer.batch_size=2 * 3", "execution.mesh=(1, 4, 1)"], "batch_size=6 is not divisible by 4"),
    ],
)
def test_what_is_refused_before_anything_trains(settings, match):
    with pytest.raises(UserError, match=match) as error:
        make_plan(override(packs.make_study(), settings), packs.SPEC)
    assert "\n" not in str(error.value)
