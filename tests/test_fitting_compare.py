"""Two recipes compared: the compute multiplier, its interval, and when the answer is open."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from scaling_jax import fitting
from scaling_jax.fitting.inference.posterior import log_likelihood

SHARED = pathlib.Path(__file__).parents[2] / "shared"
C = np.geomspace(1e18, 1e21, 7)


def ladder(multiplier=1.0, noise=0.0, seed=0, floor=1.7, C=C, drift=0.0):
    """A recipe that needs `multiplier` times less compute than the plain one, `drift` more so per e-fold."""
    x = multiplier * (C / 3e19) ** drift * C
    return {"C": C}, (floor + 40 * x**-0.1) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(C)))


@pytest.mark.parametrize("floor", ["shared", "free", 1.7])
def test_noise_free_runs_give_the_multiplier(floor):
    found = fitting.compare({"A": ladder(), "B": ladder(1.5)}, floor=floor)
    m = found.multiplier([1e18, 1e20, 1e21])
    np.testing.assert_allclose(m.value, 1.5, rtol=5e-3)
    assert np.all(m.low < m.value) and np.all(m.value < m.high)
    assert found.verdict == "B is better"


def test_swapping_the_recipes_inverts_the_multiplier():
    a, b = ladder(noise=0.003, seed=1), ladder(1.4, 0.003, 2)
    there = fitting.compare({"A": a, "B": b}).multiplier(1e20)
    back = fitting.compare({"B": b, "A": a}).multiplier(1e20)
    assert back.value == pytest.approx(1 / there.value, rel=0.1)
    assert isinstance(float(there.low), float) and there.low < there.value < there.high


def test_equal_recipes_give_no_verdict_and_a_next_pair_is_proposed():
    found = fitting.compare({"A": ladder(noise=0.004, seed=3), "B": ladder(noise=0.004, seed=4)})
    assert found.verdict == "cannot tell"
    m = found.multiplier(1e20)
    assert m.low < 1 < m.high
    pair = found.next_pair()
    top = found.multiplier(found.common_range()[1])
    assert pair.C > 0 and top.low <= pair.low < pair.high <= top.high * 1.01
    assert any("one more run of each at C" in reason for reason in found.reasons)


def test_an_advantage_that_grows_with_compute():
    found = fitting.compare({"A": ladder(noise=0.001), "B": ladder(1.5, 0.001, 1, drift=0.1)})
    slope = found.trend()
    assert slope.low < 10**0.1 < slope.high and slope.low > 1
    assert any("grows with compute" in reason for reason in found.reasons)


def test_recipes_that_cross():
    found = fitting.compare({"A": ladder(noise=5e-4), "B": ladder(1.0, 5e-4, 1, drift=0.2)})
    assert found.verdict == "depends on scale"


@pytest.mark.slow
def test_intervals_cover_and_are_not_needlessly_wide():
    inside, widths = [], []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        true, n = rng.uniform(0.7, 1.6), rng.integers(5, 9)
        at = np.geomspace(1e18, 1e20, n)
        pair = {"A": ladder(1.0, 0.004, [seed, 1], C=at), "B": ladder(true, 0.004, [seed, 2], C=at)}
        m = fitting.compare(pair, seed=seed).multiplier(1e19)
        inside.append(m.low <= true <= m.high)
        widths.append(np.log(m.high / m.low))
    assert sum(inside) >= 12  # of 16 at 90%: with probability .98
    # Known laws and noise leave 2 x 1.645 x .004 sqrt(2 / 6.5) / (elasticity of the loss, about .026) = .28.
    assert 0.2 < np.median(widths) < 0.7


def grid(gain=1.0, noise=0.0, seed=0, shared=0.0):
    rng = np.random.default_rng(seed)
    N, D = (a.ravel() for a in np.meshgrid(1e7 * 2.0 ** np.arange(5), 2e8 * 2.0 ** np.arange(5)))
    trunk = np.arange(25) % 5  # one size each
    e = np.sqrt(1 - shared) * rng.standard_normal(25) + np.sqrt(shared) * rng.standard_normal(5)[trunk]
    loss = 1.7 + 400 / (gain * N) ** 0.34 + 400 / (gain * D) ** 0.28
    return {"N": N, "D": D}, loss * np.exp(noise * e), trunk


def test_recipes_of_n_and_d_are_compared_at_their_optima():
    (data, a, _), (_, b, _) = grid(), grid(np.sqrt(1.3))
    m = fitting.compare({"A": (data, a), "B": (data, b)}).multiplier([1e17, 1e18])
    np.testing.assert_allclose(m.value, 1.3, rtol=2e-2)
    # The same compute in another unit: the answer is in its units, not in 6ND.
    hours = {**data, "C": data["N"] * data["D"] / 1e15}
    m = fitting.compare({"A": (hours, a), "B": (hours, b)}).multiplier([10.0])
    np.testing.assert_allclose(m.value, 1.3, rtol=2e-2)


def test_runs_of_equal_size_and_a_frontier_outside_the_runs_are_told():
    (data, a, _), (_, b, _) = grid(noise=0.002), grid(1.5, 0.002, 1)
    short = data["D"] < 12 * data["N"]
    runs = {k: v[short] for k, v in data.items()}
    reasons = fitting.compare({"A": (runs, a[short]), "B": (runs, b[short])}).reasons
    gaps = b[short] / a[short] - 1
    assert f"lower in {(gaps < 0).sum()} of {short.sum()} pairs: {gaps.min():+.2%} to {gaps.max():+.2%}" in reasons[1]
    assert "is above all its runs" in "\n".join(reasons)
    # Repeats are averaged; sizes that differ by more than 2%, and too few pairs, say nothing.
    twice = {k: np.r_[v, v] for k, v in data.items()}
    reasons = fitting.compare({"A": (twice, np.r_[a, a]), "B": (data, b)}).reasons
    assert any("of 25 pairs" in r for r in reasons)
    other = {k: 1.1 * v for k, v in data.items()}
    assert not any("pairs" in r for r in fitting.compare({"A": (data, a), "B": (other, b)}).reasons)


def test_shared_noise_of_trunks_widens_the_interval():
    (data, a, trunk), (_, b, _) = grid(1.0, 0.01, 1, 0.9), grid(1.0, 0.01, 2, 0.9)
    plain = fitting.compare({"A": (data, a), "B": (data, b)}).multiplier(1e18)
    clustered = fitting.compare({"A": (data, a), "B": (data, b)}, clusters={"A": trunk, "B": trunk}).multiplier(1e18)
    assert np.log(clustered.high / clustered.low) > 1.2 * np.log(plain.high / plain.low)


def test_likelihood_of_clusters_equals_the_gaussian_density():
    rng = np.random.default_rng(0)
    labels, share, r = np.array([0, 0, 0, 1, 1, 2]), 0.6, rng.standard_normal(6)
    covariance = (1 - share) * np.eye(6) + share * (labels[:, None] == labels)
    expected = -3 * np.log(r @ np.linalg.solve(covariance, r)) - 0.5 * np.linalg.slogdet(covariance)[1]
    found = log_likelihood(r[None], labels, np.array([share]))[0]
    assert found == pytest.approx(expected, abs=1e-8)


def test_tables_names_and_arrays_are_accepted():
    (x, a), (_, b) = ladder(noise=0.002), ladder(1.4, 0.002, 1)
    plain = fitting.compare({"A": (x, a), "B": (x, b)})
    frames = {k: (pd.DataFrame({"C": C, "loss": y, "junk": "x"}), "loss") for k, y in (("A", a), ("B", b))}
    assert fitting.compare(frames).multiplier(1e20) == plain.multiplier(1e20)
    assert fitting.compare({"A": (C, a), "B": ({"x": list(C)}, list(b))}).multiplier(1e20) == plain.multiplier(1e20)


def test_table_plot_and_floors_of_three_recipes():
    recipes = {"A": ladder(noise=0.002), "B": ladder(1.4, 0.002, 1), "C2": ladder(2.5, 0.002, 2)}
    found = fitting.compare(recipes)
    table = found.table()
    assert list(table.columns) == ["recipe", "C", "multiplier", "low", "high", "in_data"]
    assert set(table.recipe) == {"B", "C2"} and table.in_data.sum() == 6
    assert found.verdict == "C2 is better" and "C2" in str(found)
    floors = found.by_floor("B")
    assert len(floors) == 3 and all(m.low < 1.4 * 1.3 and m.high > 1.4 / 1.3 for m in floors.values())
    ax = found.plot()
    assert len(ax.collections) == 2 and ax.get_xscale() == "log"
    with pytest.raises(fitting.FitError, match="name=None: give one of 'B', 'C2'"):
        found.multiplier(1e20)


def test_public_ladders_of_optimizers():
    path = SHARED / "fitdata" / "marin_speedrun.csv"
    if not path.exists():
        pytest.skip("no marin_speedrun.csv beside the repository")
    runs = pd.read_csv(path)
    pair = {
        k: ({"C": g.model_flops}, g.bpb)
        for k, g in runs.groupby("ladder")
        if k in ("adamw_llama_scaling", "muon_llama_scaling")
    }
    found = fitting.compare(pair)
    m = found.multiplier(1e19)
    # Below 1e20 muon reaches the loss of 15 to 30% more compute, by interpolation alone.
    assert found.verdict == "muon_llama_scaling is better" and 1.1 < m.value < 1.35 and m.high / m.low < 1.4


@pytest.mark.parametrize(
    "recipes, options, message",
    [
        ({"A": ladder()}, {}, "give at least two"),
        ({"A": ladder(), "B": ({"C": C}, -C)}, {}, r"y of B = -1e\+18 at row 0: it must be positive"),
        ({"A": ladder(), "B": ({"D": C}, C)}, {}, "recipe 'B' has no compute"),
        ({"A": ladder(), "B": ({"C": C[:2]}, [3.0, 2.9])}, {}, "2 different compute budgets; three are the least"),
        ({"A": ladder(), "B": ({"C": C}, np.linspace(2, 3, 7))}, {}, "y of B rises with compute"),
        ({"A": ladder(), "B": ({"C": C}, [1.0, 2.0])}, {}, "C of B has 7 values but y has 2"),
        ({"A": ladder(), "B": "runs.csv"}, {}, r"recipe 'B' must be a pair \(data, loss\)"),
        ({"A": ladder(), "B": ladder()}, {"floor": 9.0}, "floor=9 is not below the lowest loss"),
        ({"A": ladder(), "B": ladder()}, {"floor": "none"}, "floor='none': give"),
        ({"A": ladder(), "B": ladder()}, {"level": 90}, "level=90"),
        (
            {"A": ladder(), "B": ladder()},
            {"clusters": {"A": [1, 2]}},
            r"clusters of A has shape \(2,\); give one",
        ),
    ],
)
def test_bad_input(recipes, options, message):
    with pytest.raises(fitting.FitError, match=message):
        fitting.compare(recipes, **options)
