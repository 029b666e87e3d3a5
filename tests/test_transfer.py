"""check-transfer: the coordinate check of any family, the best rate of every scale, a verdict in words."""

import dataclasses

import jax.numpy as jnp
import ladder
import numpy as np
import packs
import pandas as pd
import pytest

from scaling_jax import transfer
from scaling_jax.models import Transformer
from scaling_jax.study import Ladder
from scaling_jax.study_file import load_study, override
from scaling_jax.training import coordinates

WIDTHS = (16, 48, 128)


def test_activations_are_the_products_with_each_array():
    rng = np.random.default_rng(0)
    params = {"embed": rng.normal(size=(7, 4)), "block": {"up": rng.normal(size=(4, 5)), "gain": np.ones(5)}}
    params["head"] = rng.normal(size=(3, 5))
    tokens = np.array([1, 5, 5, 2])

    def loss(params, batch):
        x = params["embed"][batch] * 2
        x = jnp.tanh(x @ params["block"]["up"].astype(jnp.float32)) * params["block"]["gain"]
        return jnp.sum((x @ params["head"].T) ** 2)

    found = coordinates.activations(loss, params, tokens)
    assert set(found) == {"embed", "block/up", "head"}
    x = params["embed"][tokens]
    np.testing.assert_allclose(found["embed"], x, rtol=1e-6)
    np.testing.assert_allclose(found["block/up"], 2 * x @ params["block"]["up"], rtol=1e-5)
    np.testing.assert_allclose(found["head"], np.tanh(2 * x @ params["block"]["up"]) @ params["head"].T, rtol=1e-4)


def made(width_power, rates, inside=(True, True, True)):
    """A Transfer of three widths whose updates grow as width^power."""
    sizes = [(w, 1, a, 1.0, w**p) for w in (16, 32, 64) for a, p in (("head", width_power), ("layer_*/up", 0.02))]
    frame = pd.DataFrame(sizes, columns=["width", "depth", "array", "size", "change"])
    scales = [f"w{w}-d1" for w in (16, 32, 64)]
    optima = pd.DataFrame({"scale": scales, "lr": rates, "inside": inside, "width": (16, 32, 64), "depth": 1})
    optima["N"] = 12 * optima.width**2
    tried = [
        (s, w, r, 2 + np.log(r / best) ** 2) for s, w, best in zip(scales, (16, 32, 64), rates) for r in (0.01, 0.02)
    ]
    table = pd.DataFrame(tried, columns=["scale", "width", "lr", "loss"])
    return transfer.Transfer(frame, optima, table, "standard" if width_power else "mup")


def test_the_verdict_in_words():
    good = made(0.0, (0.01, 0.012, 0.015)).sentences()
    assert good[0] == "updates are of one size at every width: the steepest is layer_*/up, as width^0.02"
    assert good[1] == (
        "the best rate moves 1.5x from w16-d1 (0.01) to w64-d1 (0.015) by its trend: it transfers (at most 2x)"
    )
    noisy = made(0.0, (0.012, 0.026, 0.014)).sentences()[1]
    assert "moves 1.2x" in noisy and "no trend, but single scales differ by 2.2x, from w16-d1 (0.012) to" in noisy
    assert "add seeds" in noisy and "it transfers" not in noisy
    bad = made(0.6, (0.04, 0.02, 0.01), (True, True, False)).sentences()
    assert bad[0].startswith("updates change with the width: the steepest is head, as width^0.60")
    assert bad[0].endswith("--set parametrization.name=mup is made to keep it")
    assert (
        "moves 4x" in bad[1] and "it does not transfer" in bad[1] and "at w64-d1 it is the lowest or highest" in bad[1]
    )
    coordinate, rate = made(0.6, (0.04, 0.02, 0.01)).charts()
    assert len(coordinate.panels) == 2 and len(rate.panels[0].marks) == 9


def test_the_sweep_of_a_study_with_one_rate(tmp_path):
    study = override(load_study(ladder.write_study(tmp_path)), ["optimizer.learning_rates=0.02"])
    sweep = transfer.sweep_of(study)
    assert sweep.optimizer.learning_rates == (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
    assert sweep.budgets.tokens == (60 * 64,)
    three = override(study, ["optimizer.learning_rates=(0.01, 0.02, 0.03)"])
    assert transfer.sweep_of(three, 6400).optimizer.learning_rates == (0.01, 0.02, 0.03)
    many = dataclasses.replace(study, ladder=Ladder(widths=(16, 32, 64), depths=(1, 2, 2)))
    assert transfer.scales_of(many) == [(16, 1), (32, 1), (64, 1), (16, 2)]


def test_wrong_input_is_refused_in_one_line(tmp_path):
    study = f"--study={ladder.write_study(tmp_path)}"
    for flags, why in (
        ([study], "needs --workdir"),
        ([study, f"--workdir={tmp_path}/w", "--set=ladder.widths=8"], "compares scales"),
        ([study, f"--workdir={tmp_path}/w", "--tokens=-1"], "give a positive number"),
        ([study, f"--workdir={tmp_path}/w", "--steps=0"], "steps"),
    ):
        code, out, err = ladder.run_here("check-transfer", *flags)
        assert (code, out) == (2, "") and why in err and err.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_updates_are_of_one_size_under_mup_only():
    found = {}
    for name in ("mup", "standard"):
        settings = [f"parametrization.name={name}", "parametrization.base_width=16"]
        study = override(packs.make_study(steps=(20,), rates=(0.01,), family=Transformer(head_dim=8)), settings)
        sizes = coordinates.measure(study, packs.make_dataset(), [(w, 1) for w in WIDTHS], 3)
        found[name] = coordinates.slopes(sizes, "width", "change")
    assert {"embed", "head", "layer_*/qkv", "layer_*/up", "layer_*/down", "layer_*/out"} <= set(found["mup"].index)
    assert found["mup"].abs().max() < transfer.FLAT < 0.35 < found["standard"].abs().max()


@pytest.mark.slow
def test_the_best_rate_stays_under_mup_and_moves_under_standard(tmp_path):
    study = ladder.write_study(tmp_path)
    said = {}
    for name in ("mup", "standard"):
        sets = [f"--set=parametrization.name={name}", "--set=parametrization.base_width=8"]
        sets += ["--set=ladder.widths=(8,64)", "--set=optimizer.learning_rates=0.02", "--set=seeds=(0,1)"]
        code, said[name], err = ladder.run_here(
            "check-transfer", f"--study={study}", f"--workdir={tmp_path / name}", "--tokens=7680", *sets
        )
        assert code == 0, err
        assert {"coordinates.png", "rates.png", "transfer.json"} <= {p.name for p in (tmp_path / name).iterdir()}
    moved = {name: transfer.json.loads((tmp_path / name / "transfer.json").read_text())["moved"] for name in said}
    assert moved["mup"] <= transfer.MOVES < moved["standard"]
    assert "it transfers" in said["mup"] and "it does not transfer" in said["standard"]
