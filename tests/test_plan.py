"""From a study to runs: N, D, C, identities, and what cannot be planned."""

import dataclasses
import functools

import packs
import pytest

from scaling_jax.errors import UserError
from scaling_jax.models import Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import grouped, identified, make_plan, phases, record_of
from scaling_jax.study import Budgets, Ladder, Schedule
from scaling_jax.study_file import override

make_study = functools.partial(packs.make_study, family=Transformer(head_dim=8))
TOKENS_PER_STEP = packs.BATCH * packs.CONTEXT


def plan(study, dataset_hash="d" * 16):
    return make_plan(study, packs.SPEC, dataset_hash)


def with_budgets(**budgets):
    return dataclasses.replace(make_study(), budgets=Budgets(**{"min_steps": 1} | budgets))


def budgets_of(**budgets):
    """Steps of the budgets of the only scale."""
    (pack,) = plan(with_budgets(**budgets))
    return pack.budgets


def test_counts_of_every_run():
    study = make_study(steps=(20, 50), rates=(0.01, 0.02), seeds=(0, 1))
    (pack,) = plan(study)
    assert (pack.scale, len(pack.lanes), len(pack.runs)) == ("w16-d1", 4, 8)
    counts = Transformer(head_dim=8).counts(16, 1, packs.SPEC)
    for lane in range(4):
        for budget, steps in enumerate((20, 50)):
            run = pack.run(lane, budget)
            assert (run.lane, run.budget, run.steps, run.tokens) == (lane, budget, steps, steps * TOKENS_PER_STEP)
            assert run.flops == run.tokens * counts.flops_per_token
            assert run.flops_6nd == 6 * counts.params_matmul * run.tokens
    assert pack.trained_steps == 16 + 4 + (40 - 16) + 10
    assert pack.trained_flops == 4 * pack.trained_steps * TOKENS_PER_STEP * counts.flops_per_token
    assert pack.trained_flops < sum(run.flops for run in pack.runs)  # a shared trunk saves work


def test_small_scales_may_train_more_seeds():
    study = make_study(steps=(20,), rates=(0.01, 0.02), seeds=(0, 1, 2))
    study = dataclasses.replace(study, ladder=Ladder(widths=(16, 32), depths=(1,), seeds=(3, 1)))
    narrow, wide = plan(study)
    assert [lane.seed for lane in narrow.lanes] == [0, 1, 2] * 2
    assert [lane.seed for lane in wide.lanes] == [0] * 2
    everywhere = plan(dataclasses.replace(study, ladder=Ladder(widths=(16, 32), depths=(1,))))[1]
    assert {run.run_id for run in wide.runs} < {run.run_id for run in everywhere.runs}


def test_budgets_are_the_union_rounded_to_whole_steps():
    n = Transformer(head_dim=8).counts(16, 1, packs.SPEC).params_non_embedding
    per_token = Transformer(head_dim=8).counts(16, 1, packs.SPEC).flops_per_token
    wanted = {10, round(20 * n / TOKENS_PER_STEP), round(1e9 / per_token / TOKENS_PER_STEP), 100}
    got = budgets_of(
        tokens=(10.4 * TOKENS_PER_STEP,), tokens_per_param=(20.0,), flops=(1e9, 100 * TOKENS_PER_STEP * per_token)
    )
    assert got == tuple(sorted(wanted))


def test_the_same_number_of_steps_is_one_budget():
    assert budgets_of(tokens=(20 * TOKENS_PER_STEP, 20.3 * TOKENS_PER_STEP, 40 * TOKENS_PER_STEP)) == (20, 40)


def test_budgets_outside_the_range_are_not_planned():
    counts = Transformer(head_dim=8).counts(16, 1, packs.SPEC)
    n, per_token = counts.params_non_embedding, counts.flops_per_token
    flops = tuple(ratio * n * per_token for ratio in (5, 10, 20, 40))
    steps = [round(ratio * n / TOKENS_PER_STEP) for ratio in (5, 10, 20, 40)]
    assert budgets_of(flops=flops) == tuple(steps)
    assert budgets_of(flops=flops, ratio_range=(9, 30)) == tuple(steps[1:3])
    assert budgets_of(flops=flops, max_tokens=15 * n) == tuple(steps[:2])
    # A scale that no budget fits is left out; a study that none fits is an error.
    two = dataclasses.replace(
        with_budgets(flops=flops[:1], ratio_range=(4, 1e9)), ladder=Ladder(widths=(16, 64), depths=(1,))
    )
    assert [pack.scale for pack in plan(two)] == ["w16-d1"]
    with pytest.raises(UserError, match="give at least one of budgets"):
        budgets_of(flops=flops, ratio_range=(1e6, 1e9))


def test_identities_follow_what_determines_a_loss_and_nothing_else():
    base = make_study(steps=(20, 50))
    ids = {run.run_id for pack in plan(base) for run in pack.runs}
    assert len(ids) == 4

    def changed(study, dataset_hash="d" * 16):
        return {run.run_id for pack in plan(study, dataset_hash) for run in pack.runs}

    for same in (
        "name=other",
        "execution.layout=vmap",
        "execution.microbatches=2",
        "fit.bootstrap=1",
        "hold_out.cut=0.3",
        # Paths are not content, which dataset_hash identifies.
        "data.source=elsewhere/text.txt",
        "data.data_dir=/mnt/tfds",
        "data.split=all",
        "data.tokenizer=bpe:300",
        "data.unique_tokens=1000",
        # Settings that nothing here reads.
        "data.augment=False",
        "optimizer.momentum=0.5",
        "optimizer.spike_factor=3.0",
        "execution.attention=xla",
        "execution.remat=True",
    ):
        assert changed(override(base, [same])) == ids, same
    for other in (
        "optimizer.batch_size=8",
        "optimizer.b2=0.99",
        "optimizer.clip_norm=0.0",
        "optimizer.learning_rates=(0.03,)",
        "optimizer.weight_decays=(0.1,)",
        "optimizer.init_scales=(2.0,)",
        "seeds=(1,)",
        "schedule.warmup_steps=6",
        "schedule.name=cosine",
        "parametrization.base_width=64",
        "parametrization.name=standard",
        "ladder.depths=(2,)",
        "optimizer.spike_policy=skip",
        "schedule.final_fraction=0.1",
        "evaluation.examples=64",
        "execution.compute_dtype=bfloat16",
    ):
        assert not changed(override(base, [other])) & ids, other
    assert not changed(base, "e" * 16) & ids


def test_identities_have_the_resolved_compute_dtype():
    def ids(setting, dtype=None):
        study = override(make_study(steps=(20,)), [f"execution.compute_dtype={setting}"])
        return {run.run_id for pack in make_plan(study, packs.SPEC, "d" * 16, dtype) for run in pack.runs}

    assert ids("auto") == ids("float32") == ids("auto", "float32")  # on the CPU of this test
    assert ids("auto", "bfloat16") == ids("bfloat16") != ids("float32")


def test_identities_of_the_other_optimizer_schedules_and_parametrization():
    def ids(*settings):
        return {run.run_id for pack in plan(override(make_study(), settings)) for run in pack.runs}

    for base, same, other in (
        ("optimizer.name=sgd", "optimizer.b2=0.5", "optimizer.momentum=0.5"),
        ("schedule.name=cosine", "schedule.cooldown_fraction=0.5", "schedule.final_fraction=0.1"),
        ("schedule.name=constant", "schedule.final_fraction=0.5", "schedule.warmup_steps=3"),
        ("parametrization.name=standard", "parametrization.base_width=64", "optimizer.b1=0.5"),
        ("optimizer.spike_policy=skip", "fit.level=0.5", "optimizer.spike_factor=3.0"),
        # What is left out has its default; numbers are the same however they are written.
        ("optimizer.name=muon", "optimizer.options={'ns_steps': 5, 'rms': 0.2}", "optimizer.options.ns_steps=3"),
        ("optimizer.name=lion", "optimizer.options.b2=0.99", "optimizer.options.b2=0.9"),
        ("optimizer.name=adamw", "family.rope_base=10000", "family.rope_base=500"),
        # Nor does the factory of a schedule-free optimizer read all that its average does.
        ("optimizer.name=schedule_free_adamw", "optimizer.momentum=0.5", "optimizer.b1=0.5"),
    ):
        assert ids(base, same) == ids(base)
        assert not ids(base, other) & ids(base)


def test_without_a_corpus_runs_have_no_identity_yet():
    study = make_study()
    planned = make_plan(study, packs.SPEC)
    assert {run.run_id for pack in planned for run in pack.runs} == {""}
    assert identified(planned, study, packs.SPEC, "d" * 16) == plan(study)


def test_lanes_stay_in_the_pack_that_they_began_in():
    small = make_study(steps=(20,), rates=(0.02, 0.03))
    (old,) = plan(small)
    record = record_of(old)
    assert (record.scale, len(record.lanes), record.forks) == ("w16-d1", 2, (16,))
    large = plan(make_study(steps=(20, 50), rates=(0.01, 0.03), seeds=(0, 1)))
    kept, fresh = sorted(grouped(large, {"w16-d1": record}), key=lambda pack: pack.name)
    assert (kept.name, fresh.name, kept.scale, fresh.scale) == ("w16-d1", "w16-d1-2", "w16-d1", "w16-d1")
    assert [(lane.learning_rate, lane.seed) for lane in kept.lanes] == [(0.03, 0)]
    assert [(lane.learning_rate, lane.seed) for lane in fresh.lanes] == [(0.01, 0), (0.01, 1), (0.03, 1)]
    assert {run.run_id for run in kept.runs + fresh.runs} == {run.run_id for run in large[0].runs}
    for pack in (kept, fresh):
        assert all(pack.run(run.lane, run.budget) == run for run in pack.runs)
    # A third time, with another batch size.
    recorded = {pack.name: record_of(pack) for pack in (kept, fresh)}
    other = plan(override(small, ["optimizer.batch_size=8", "budgets.min_steps=1"]))
    assert [pack.name for pack in grouped(other, recorded)] == ["w16-d1-3"]


def test_a_run_is_the_same_run_in_a_larger_study():
    # So that adding rates, seeds, scales or budgets never renames what is trained already.
    small = make_study(steps=(20,), rates=(0.02,))
    (run,) = plan(small)[0].runs
    large = make_study(steps=(10, 20, 50), rates=(0.01, 0.02), seeds=(1, 0))
    large = dataclasses.replace(large, ladder=Ladder(widths=(32, 16), depths=(1,)))
    same = [other for pack in plan(large) for other in pack.runs if other.run_id == run.run_id]
    assert [(other.scale, other.steps, other.trunk_id) for other in same] == [("w16-d1", 20, run.trunk_id)]


def test_budgets_of_a_lane_share_their_trunk():
    (pack,) = plan(make_study(steps=(20, 50)))
    assert [run.trunk_id for run in pack.runs[:2]] == [pack.runs[0].trunk_id] * 2
    assert pack.runs[0].trunk_id != pack.runs[2].trunk_id


def test_trained_steps_are_those_of_the_phases():
    for name, wanted in (("wsd", 16 + 4 + 24 + 10), ("cosine", 20 + 50), ("constant", 50)):
        study = make_study(steps=(20, 50), schedule={"name": name})
        (pack,) = plan(study)
        assert pack.trained_steps == wanted
        assert sum(p.stop - p.start for p in phases(study.schedule, pack.budgets, pack.cooldowns)) == wanted


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"budgets": Budgets(tokens=(10.0,))}, "less than one batch"),
        ({"budgets": Budgets(tokens=(99 * TOKENS_PER_STEP,))}, "99 steps .* fewer than budgets.min_steps=100"),
        ({"budgets": Budgets()}, "at least one of budgets"),
        ({"schedule": Schedule(warmup_steps=32)}, "no step is left"),
        ({"ladder": Ladder(widths=(12,))}, "head_dim"),
        ({"ladder": Ladder(widths=(16,), seeds=(1, 2))}, "one number for each of the 1 scales"),
        ({"ladder": Ladder(widths=(16,), seeds=(9,))}, "none above the 1 listed in seeds"),
    ],
)
def test_what_cannot_be_planned(changes, match):
    with pytest.raises(UserError, match=match) as error:
        plan(dataclasses.replace(make_study(), **changes))
    assert "\n" not in str(error.value)


def test_a_family_for_other_data_is_refused():
    with pytest.raises(UserError, match=r"trains on tokens.* gives images"):
        make_plan(make_study(), Spec("images", 10, 1, (8, 8, 3)))
