"""Coefficients of published fits: predictions and frontiers that papers and closed forms give."""

import importlib
import pathlib

import numpy as np
import pandas as pd
import pytest

from scaling_jax import fitting
from scaling_jax.text import short

SHARED = pathlib.Path(__file__).parents[2] / "shared"
published = fitting.published


@pytest.mark.parametrize("name", list(published))
def test_every_fit_predicts_and_has_a_source(name):
    fit, source = published[name], published.source[name]
    assert isinstance(fit, fitting.Fit) and dict(fit.params) == pytest.approx(dict(source.params))
    at = {"N": 1e9, "D": 2e10, "U": 2e10, "x": 1e20}
    value = fit.predict({k: at[k] for k in fit.law.inputs})
    assert np.isfinite(value) and value > 0
    assert source.paper and source.where and source.convention and source.paper in str(source)
    assert "arXiv:" in source.paper and name in repr(published)


@pytest.mark.parametrize("name", ["kaplan2020", "hoffmann2022", "besiroglu2024", "muennighoff2023", "luo2025_code"])
def test_planning_from_published_fits(name):
    inputs = {"U": 1e13} if name == "muennighoff2023" else None
    plan = published[name].frontier(1e21, inputs=inputs)
    assert pytest.approx(1e21, rel=1e-6) == 6 * plan.N * plan.D and 1e8 < plan.N < 1e11
    further = {"U": 1e13} if inputs else {}
    for factor in (0.7, 1.4):
        other = {"N": factor * plan.N, "D": plan.D / factor, **further}
        assert published[name].predict(other) > plan.loss


def test_losses_match_the_papers():
    # Hoffmann et al. 2022: Chinchilla, 70B on 1.4T tokens; the authors' script of Muennighoff et al. 2023
    chinchilla = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    assert published["hoffmann2022"].predict({"N": 70e9, "D": 1.4e12}) == pytest.approx(chinchilla, rel=1e-12)
    repeated = published["muennighoff2023"].predict({"N": 6.34e9, "D": 242e9, "U": 25e9})
    assert repeated == pytest.approx(2.2256440889984477, rel=1e-12)
    kaplan = ((6.4e13 / 1e9) ** (0.076 / 0.103) + 1.8e13 / 2e10) ** 0.103
    assert published["kaplan2020"].predict({"N": 1e9, "D": 2e10}) == pytest.approx(kaplan, rel=1e-12)


@pytest.mark.parametrize(
    ("corpus", "coefficients", "small", "large"),
    [
        ("c4", (1.51, 141, 190, 0.121), 3.8003, 2.3822),
        ("redpajama", (1.84, 212, 367, 0.136), 3.8999, 2.4250),
        ("refinedweb", (1.73, 157, 246, 0.127), 3.8609, 2.4547),
    ],
)
def test_gadre_in_n_and_d_is_gadre_in_compute_and_multiplier(corpus, coefficients, small, large):
    """And it fits the losses on C4 of the authors' runs of 20 tokens per parameter (mlfoundations/scaling)."""
    E, a, b, eta = coefficients
    fit = published[f"gadre2024_{corpus}"]
    for N, ratio in ((1e9, 20), (1e8, 640)):
        C = 6 * N * ratio * N
        printed = E + (a * ratio**eta + b * ratio**-eta) * C**-eta
        assert fit.predict({"N": N, "D": ratio * N}) == pytest.approx(printed, rel=1e-12)
    assert fit.predict({"N": 78_914_048, "D": 1_578_280_960}) == pytest.approx(small, rel=0.01)
    assert fit.predict({"N": 6_889_410_560, "D": 137_788_211_200}) == pytest.approx(large, rel=0.04)


def test_exponents_of_the_frontier():
    for name, a in (("kaplan2020", 0.575), ("hoffmann2022", 0.452), ("besiroglu2024", 0.513), ("muennighoff2023", 0.5)):
        fit = published[name]
        inputs = {"U": 1e15} if name == "muennighoff2023" else None
        small, large = (fit.frontier(C, inputs=inputs).N for C in (1e20, 1e21))
        assert np.log10(large / small) == pytest.approx(a, abs=1e-3)


def test_rates_batches_and_tokens():
    assert published["steplaw2025_lr"].predict({"N": 1e9, "D": 1e11}) == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert published["steplaw2025_batch"].predict({"N": 1e9, "D": 1e11}) == pytest.approx(0.58 * 1e11**0.571)
    # DeepSeek-AI 2024: C = M D, so that the two fits multiply to the compute
    tokens, scale = (published[f"deepseek2024_{k}"].predict(1e20) for k in ("tokens", "scale"))
    assert tokens * scale == pytest.approx(1e20, rel=1e-3)
    assert published["deepseek2024_lr"].predict(1e20) < published["deepseek2024_lr"].predict(1e18)
    assert published["deepseek2024_batch"].predict(1e20) > published["deepseek2024_batch"].predict(1e18)
    assert published["llama3_tokens"].predict(3.8e25) == pytest.approx(10.5e12, rel=0.02)


def test_the_two_fits_of_the_same_points_minimize_their_own_objective():
    path = SHARED / "fitdata" / "chinchilla_epoch.csv"
    if not path.exists():
        pytest.skip("no chinchilla_epoch.csv beside the repository")
    runs = pd.read_csv(path)
    runs = runs[runs.excluded == 0]
    left = {}
    for name in ("hoffmann2022", "hoffmann2022_unrounded", "besiroglu2024", "besiroglu2024_huber"):
        r = np.log(runs.loss) - np.log(published[name].predict({"N": runs.params, "D": runs.tokens}))
        left[name] = {str(o): o.value(r.to_numpy()) for o in (fitting.Huber(1e-3), fitting.LAD())}
    huber, lad = map(str, (fitting.Huber(1e-3), fitting.LAD()))
    assert left["besiroglu2024_huber"][huber] == pytest.approx(0.00101827406, rel=1e-6)
    assert left["besiroglu2024"][huber] == pytest.approx(0.0010186448, rel=2e-4)
    assert left["besiroglu2024"][lad] == pytest.approx(1.12949466, rel=2e-4)  # the table is rounded
    assert left["besiroglu2024"][lad] < left["besiroglu2024_huber"][lad]
    assert left["hoffmann2022"][huber] == pytest.approx(0.0041210, rel=1e-4)
    assert left["hoffmann2022_unrounded"][huber] == pytest.approx(0.0012311626, rel=1e-6)


def test_no_intervals_without_data():
    with pytest.raises(fitting.FitError):
        published["besiroglu2024"].predict({"N": 1e9, "D": 2e10}, level=0.9)
    with pytest.raises(fitting.FitError):
        published["besiroglu2024"].frontier(1e21, level=0.9)


def test_unknown_name():
    with pytest.raises(fitting.FitError, match=r"No published fit named 'hofmann2022'. Nearest: hoffmann2022"):
        published["hofmann2022"]
    assert "gadre" not in published and len(published) == len(list(published))


def command(*args):
    return importlib.import_module("scaling_jax.cli.main").main(["scaling-jax", "fit", *args])


def test_planning_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("--published=besiroglu2024", "--target_flops=5.88e23") == 0
    text = capsys.readouterr().out
    plan = published["besiroglu2024"].frontier(5.88e23)
    assert "arXiv:2404.10102" in text and short(float(plan.N)) in text and f"{plan.loss:.4f}" in text
    assert command("--published=muennighoff2023", "--at=U=1e11") == 0 and "U: unique" in capsys.readouterr().out
    assert command("--published=llama3_tokens", "--target_flops=3.8e25") == 0 and "10.5T" in capsys.readouterr().out
    assert command("--published=list") == 0 and "kaplan2020" in capsys.readouterr().out
    for args, message in (
        (["--published=hofmann"], "Nearest: hoffmann2022"),
        (["--published=steplaw2025_lr"], "plans nothing"),
        (["--published=muennighoff2023"], 'inputs={"U": ...}'),
    ):
        assert command(*args) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
