"""What a plan says a study will be able to tell, and what it refuses."""

import dataclasses

import ladder
import numpy as np
import packs
import pytest

from scaling_jax import fitting, outlook
from scaling_jax.errors import UserError
from scaling_jax.models import Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Fit, Ladder, Study
from scaling_jax.study_file import override

SPEC = Spec("tokens", 256, 128)


def make_study(*settings, **changes):
    study = Study(
        name="s", family=Transformer(head_dim=16), ladder=Ladder(widths=(16, 32, 48, 64), depths=(2,)),
        budgets=Budgets(tokens=(5e5, 1e6, 2e6)), seeds=(0, 1), fit=Fit(target_flops=(1e13,)),
    )  # fmt: skip
    return override(dataclasses.replace(study, **changes), settings)


def assess(study, **kwargs):
    return outlook.assess(study, make_plan(study, SPEC), SPEC, **kwargs)


def findings(*settings, **kwargs):
    return [str(f) for f in assess(make_study(*settings), **kwargs).findings]


def prior(trunk, run):
    return outlook.Prior(fitting.Fit.from_params("chinchilla", outlook.SMALL_LAW), trunk, run, "test")


def test_the_expected_interval_is_that_of_a_fit_to_such_runs():
    study = make_study("ladder.widths=(16,32,48,64,96,128)", "budgets.tokens=(3e5,6e5,1.2e6,2.4e6,5e6)")
    expected = assess(study, prior=prior(0.0, 0.004)).expected
    table = [(p.counts.params_matmul, r.tokens) for p in make_plan(study, SPEC) for r in p.runs]
    N, D = np.array(table, float).T
    true = outlook.SMALL_LAW
    widths = []
    for seed in range(4):
        loss = true["E"] + true["A"] / N ** true["alpha"] + true["B"] / D ** true["beta"]
        noisy = loss * np.exp(0.004 * np.random.default_rng(seed).standard_normal(len(N)))
        fit = fitting.fit("chinchilla", {"N": N, "D": D}, noisy, objective=fitting.LeastSquares(log=True))
        found = fit.frontier([1e13], level=0.9)
        widths.append([float(np.log(found.interval[k][1] / found.interval[k][0])[0]) for k in ("N", "D", "loss")])
    wanted = [np.log(high / low) for _, low, high in expected.values()]
    np.testing.assert_allclose(wanted, np.mean(widths, axis=0), rtol=0.25)


SMALL = ["family.head_dim=8", "budgets.tokens=(2e7,4e7,8e7)"]


def test_branches_of_a_trunk_share_their_luck():
    """The sum over trunks against the inverse of the whole covariance matrix."""
    study, noise = make_study(), (0.01, 0.003)
    points = outlook.points_of(study, make_plan(study, SPEC))
    assert len(points.N) == 24 and len(set(points.trunk)) == 8
    law, true = fitting.laws["chinchilla"], outlook.SMALL_LAW
    step = 1e-5

    def log_loss(**moved):
        return np.log(np.asarray(law({**true, **moved}, {"N": points.N, "D": points.D}), float))

    def derivative(function):
        sides = [(function(**{k: v * (1 + step)}), function(**{k: v * (1 - step)})) for k, v in true.items()]
        return np.array([(up - down) / (2 * step) for up, down in sides])

    jacobian = derivative(log_loss)
    whole = noise[0] ** 2 * (points.trunk[:, None] == points.trunk) + noise[1] ** 2 * np.eye(24)
    covariance = np.linalg.inv(jacobian @ np.linalg.inv(whole) @ jacobian.T)

    def log_n(**moved):
        return float(np.log(np.squeeze(fitting.Fit.from_params("chinchilla", {**true, **moved}).frontier(1e13).N)))

    gradient = derivative(log_n)
    error = np.sqrt(gradient @ covariance @ gradient)
    value, low, high = outlook.expected_intervals(prior(*noise), points, 1e13)["N"]
    assert np.log(high / value) == pytest.approx(1.645 * error, rel=1e-3)
    assert np.log(value / low) == pytest.approx(1.645 * error, rel=1e-3)
    more = outlook.expected_intervals(prior(0.0, noise[1]), points, 1e13)["N"]
    assert more[2] / more[1] < high / low


@pytest.mark.parametrize(
    "settings, text, way",
    [
        (["seeds=3"], "one seed", "seeds=(3, 4)"),
        (["ladder.widths=(32,64)"], "2 scales: the fall of the loss", "ladder.widths=(32,64,96)"),
        (["ladder.widths=32"], "one scale", "ladder.widths=(32,64)"),
        (["budgets.tokens=()", "budgets.flops=(1e11,3e11)", "budgets.ratio_range=(5,500)"], "do not train", None),
        (["budgets.tokens=1e6"], "4 points (N, D) for the 5 parameters", None),
        (["schedule.warmup_steps=200"], "warm-up of 200 steps is 41.0%", "schedule.warmup_steps=48"),
        (["budgets.tokens=(1.2e5,1e6)", "schedule.warmup_steps=5"], "runs of 117 optimizer", "optimizer.batch_size=6"),
        (["data.unique_tokens=100000"], "tokens 20.0 times, more than", "fit.law=data_constrained"),
        (["data.unique_tokens=1500000"], "1.50M distinct tokens 1.3 times", None),
        (["optimizer.learning_rates=olmo"], "they fall twice", "parametrization.name=standard"),
        (["optimizer.name=schedule_free_adamw"], "averages in place of a decay", "schedule.name=constant"),
        (["budgets.tokens=()", "budgets.tokens_per_param=(40, 90)"], "correlate at 0.9", None),
        (["ladder.widths=(128,192,256,320)"], "below the smallest scale", "ladder.widths=(128,192,256,320,64)"),
        ([*SMALL, "ladder.widths=(8,16,24)"], "above the largest scale (20.1k)", None),
    ],
)  # fmt: skip
def test_what_limits_a_study_is_said_with_a_way_out(settings, text, way):
    found = findings(*settings)
    (line,) = [f for f in found if text in f]
    assert way is None or f"--set '{way}'" in line
    assert not any(text in f for f in findings())
    if way is not None:  # the way leads out
        assert not any(text in f for f in findings(*settings, way))


def test_known_tokens_make_epochs_known():
    assert any("distinct tokens 2.0 times" in f for f in findings(tokens=1_000_000))


def test_a_study_that_tells_too_little_gets_the_cheapest_change():
    first, *_ = assess(make_study("fit.target_flops=1e17", "seeds=0")).findings
    assert "N* at 1e+17 FLOPs is expected to be known to a factor of" in first.text
    before = assess(make_study("fit.target_flops=1e17", "seeds=0")).expected["N"]
    after = assess(make_study("fit.target_flops=1e17", "seeds=0", *first.way)).expected["N"]
    assert after[2] / after[1] < before[2] / before[1]


def refused(*settings):
    study = make_study(*settings)
    return outlook.refused(study, make_plan(study, SPEC))


@pytest.mark.parametrize(
    "settings, way",
    [
        (["budgets.tokens_per_param=40"], "--set 'budgets.tokens_per_param=()'"),
        (["budgets.tokens_per_param=20", "ladder.widths=(32,48)"], "'budgets.tokens_per_param="),
        (["budgets.flops=1e12"], "add IsoFLOP budgets; --set 'budgets.flops=(2.5e+11,5e+11,1e+12)'"),
        (["budgets.flops=1e12", "ladder.widths=(32,48)"], "add IsoFLOP budgets"),
    ],
)
def test_budgets_that_follow_the_size_are_refused(settings, way):
    settings = ["budgets.tokens=()", *settings]
    assert refused(*settings).startswith("ln N and ln D correlate at") and way in refused(*settings)
    # What is proposed leads out.
    ways = [way for f in assess(make_study(*settings)).findings if f.refused for way in f.way]
    assert ways and refused(*settings, *ways) == ""


@pytest.mark.parametrize(
    "settings",
    [
        ["budgets.tokens=()", "budgets.tokens_per_param=(20,80)", "ladder.widths=(32,48)"],
        ["budgets.tokens=()", "budgets.flops=(2.5e11,1e12)"],
        ["budgets.tokens=1e6", "ladder.widths=(16,32)", "optimizer.batch_size=olmo"],  # one budget in other batches
    ],
)
def test_budgets_that_cross_sizes_are_not_refused(settings):
    assert refused(*settings) == ""


def test_what_is_refused_is_planned_by_force(tmp_path):
    study = make_study("budgets.tokens=()", "budgets.tokens_per_param=40")
    # A law of compute alone does not mind.
    assert outlook.refused(override(study, ["fit.law=power"]), make_plan(study, SPEC)) == ""
    args = ["plan", f"--study={ladder.write_study(tmp_path)}", "--set=budgets.tokens=()"]
    args += ["--set=budgets.tokens_per_param=40", "--set=ladder.widths=(8,16,32)", "--set=budgets.min_steps=1"]
    code, out, err = ladder.run_here(*args)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "--force" in err
    code, out, err = ladder.run_here(*args, "--force")
    assert code == 0 and "ln N and ln D correlate at" in out


def test_a_prior_is_a_workdir_a_name_or_a_fit(tmp_path):
    study = f"--study={ladder.write_study(tmp_path)}"
    code, out, _ = ladder.run_here("plan", study, "--prior=hoffmann2022")
    assert code == 0 and "prior hoffmann2022, seeds 0.79%" in out and "with start, compilation and report about" in out
    fitting.Fit.from_params("chinchilla", outlook.SMALL_LAW).to_json(tmp_path / "fit.json")
    assert (
        "prior " + str(tmp_path / "fit.json") in ladder.run_here("plan", study, f"--prior={tmp_path / 'fit.json'}")[1]
    )
    for wrong, why in (("nothing", "neither a workdir"), (str(tmp_path / "no.json"), "no.json"), ("step_law", "")):
        code, out, err = ladder.run_here("plan", study, f"--prior={wrong}")
        assert (code, out) == (2, "") and why in err and err.count("\n") == 1


def test_other_batch_sizes_are_not_more_runs():
    study = packs.make_study(steps=(200, 401), rates=(0.01, 0.02), seeds=(0, 1))
    wide = override(study, ["optimizer.batch_size=(3, 4)"])
    both = [len(outlook.points_of(s, make_plan(s, packs.SPEC)).N) for s in (study, wide)]
    assert both == [4, 4]


def test_a_single_run_is_not_told_what_a_ladder_lacks():
    study = packs.make_study(steps=(400,))
    found = outlook.assess(study, make_plan(study, packs.SPEC), packs.SPEC)
    assert found.alone and "no law is fitted" in str(found)
    assert not any("scale" in str(f) or "N*" in str(f) or "seed" in str(f) for f in found.findings)
    longer = packs.make_study(steps=(200, 400))
    found = outlook.assess(longer, make_plan(longer, packs.SPEC), packs.SPEC)
    assert not found.alone and any("at least 3 scales" in str(f) for f in found.findings)


def test_nothing_is_refused_for_one_scale():
    study = packs.make_study(steps=(20, 40, 80))
    assert outlook.refused(study, make_plan(study, packs.SPEC)) == ""
    with pytest.raises(UserError, match="is a law of"):
        outlook.checked(outlook.Prior(fitting.Fit.from_params("power", {"A": 1.0, "alpha": 0.1}), 0, 0, "x"))
