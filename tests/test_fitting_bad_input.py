"""Bad input gives one clear message, a ValueError, that quotes the value and suggests a fix."""

import functools

import numpy as np
import pandas as pd
import pytest
from fitting_truth import noisy

from scaling_jax import fitting

INPUTS, Y = noisy("chinchilla", 0.01)
N, D = INPUTS["N"], INPUTS["D"]


def spoiled(column, value, row=3):
    column = column.copy()
    column[row] = value
    return column


def own(function, **bounds):
    return fitting.law(function, params=bounds or {"a": (0.1, 10)}, inputs="x")


CASES = {
    "NaN in N": (lambda: fit(N=spoiled(N, np.nan)), r"N = nan at row 3.*drop"),
    "inf in D": (lambda: fit(D=spoiled(D, np.inf)), r"D = inf at row 3"),
    "zero N": (lambda: fit(N=spoiled(N, 0)), r"N = 0 at row 3.*positive"),
    "negative D": (lambda: fit(D=spoiled(D, -2)), r"D = -2 at row 3.*positive"),
    "NaN in y": (lambda: fit(spoiled(Y, np.nan)), r"y = nan at row 3.*diverged"),
    "zero y under a logarithm": (lambda: fit(spoiled(Y, 0)), r"y = 0 at row 3.*LeastSquares\(\)"),
    "negative y under a logarithm": (lambda: fit(spoiled(Y, -1), objective=fitting.LAD()), r"y = -1 at row 3.*ln y"),
    "columns of different lengths": (lambda: fit(D=D[:5]), rf"D has 5 values but N has {len(N)}"),
    "y of another length": (lambda: fit(Y[:7]), rf"y has 7 values but N has {len(N)}"),
    "misnamed column": (
        lambda: fitting.fit("chinchilla", {"params": N, "D": D}, Y), r"needs the column 'N'.*'params', 'D'"
    ),
    "misnamed columns of a table": (
        lambda: fitting.fit("chinchilla", pd.DataFrame({"n": N, "t": D}), Y), r"columns 'N', 'D'.*'n', 't'.*Rename"
    ),
    "no column to rename": (
        lambda: fitting.fit("data_constrained", INPUTS, Y), r"needs the column 'U'; there are 'N', 'D'\.$"
    ),
    "neither M nor D": (
        lambda: fitting.fit("overtraining", {"N": N, "tokens": D}, Y), r"column 'M' \(or 'N' and 'D'\).*'tokens'\.$"
    ),
    "negative D behind M": (lambda: fitting.fit("overtraining", {"N": N, "D": -D}, Y), r"D = -.* at row 0.*positive"),
    "y no column": (lambda: fitting.fit("chinchilla", INPUTS, "loss"), r"'loss' is not a column.*'N', 'D'"),
    "an array for a law of two": (lambda: fitting.fit("chinchilla", N, Y), r"reads N, D.*dict"),
    "fewer points than parameters": (
        lambda: fitting.fit("chinchilla", {"N": N[:4], "D": D[::20][:4]}, Y[:4]),
        r"4 different points for 5 parameters.*fixed=",
    ),
    "repeats are no new points": (
        lambda: fitting.fit("chinchilla", {"N": np.tile(N[:4], 9), "D": np.tile(D[:4], 9)}, np.tile(Y[:4], 9)),
        r"4 different points",
    ),
    "all at one N": (lambda: fit(N=np.full_like(N, 1e9)), rf"All {len(N)} points have N = 1e\+09.*Vary N"),
    "all at one D": (lambda: fit(D=np.full_like(D, 1e9)), r"have D = 1e\+09"),
    "no rows": (lambda: fitting.fit("chinchilla", {"N": [], "D": []}, []), r"no rows"),
    "two dimensions": (lambda: fit(N=N.reshape(9, 9)), r"N has shape \(9, 9\).*1-d"),
    "negative weights": (lambda: fit(weights=spoiled(np.ones(81), -1)), r"weights = -1 at row 3.*use 0"),
    "all weights zero": (lambda: fit(weights=np.zeros(81)), r"weights are all zero"),
    "weights of another length": (lambda: fit(weights=np.ones(3)), r"weights has 3 values"),
    "weights leave too few": (lambda: fit(weights=(np.arange(81) < 3).astype(float)), r"3 different points for 5"),
    "text": (lambda: fit(N=["many"] * 81), r"N is not numeric: 'many' at row 0"),
    "numbers as text": (lambda: fit(N=[str(v) for v in N]), r"N is not numeric.*Convert"),
    "complex numbers": (lambda: fit(N=N + 1j), r"N is not numeric"),
    "clusters of another length": (lambda: fit(clusters=[1, 2]), r"clusters has shape \(2,\)"),
    "one cluster": (lambda: fit(clusters=["a"] * 81), r"all rows are in one cluster.*leave clusters= away"),
    "a row without a cluster": (lambda: fit(clusters=["a", "b", None] * 27), r"clusters = None at row 2"),
    "a row whose cluster is pd.NA": (
        lambda: fit(clusters=pd.array(["a", "b", None] * 27, dtype="string")), r"clusters = <NA> at row 2",
    ),
    "clusters no column": (lambda: fit(clusters="trunk"), r"clusters='trunk' is not a column of the data.*'N', 'D'"),
    "masked y": (lambda: fit(np.ma.masked_greater(Y, 3)), r"y is masked at row 0: drop the masked rows"),
    "ragged": (lambda: fit(N=[[1, 2], [3]]), r"N is ragged"),
    "a generator": (lambda: fit(N=(v for v in N)), r"N is a generator; give one value per row"),
    "nothing for y": (lambda: fit(None), r"y is None; give one value per row"),
    "columns of one name": (
        lambda: fitting.fit("chinchilla", pd.DataFrame(np.stack([N, D, D], 1), columns=["N", "D", "D"]), Y),
        r"2 columns named 'D': rename",
    ),
    "the same rows in another order": (
        lambda: fit(pd.Series(Y)[::-1], N=pd.Series(N)), r"y and N have the same row labels in a different order"
    ),
    "a start as text": (
        lambda: fit(starts=[dict.fromkeys(["E", "A", "B", "alpha", "beta"], "x")]), r"starts: E = 'x' is not a finite"
    ),
    "isoflop: masked": (
        lambda: fitting.isoflop(np.ma.masked_less(N, 1e8), D, 6 * N * D, Y), r"N is masked at row 0"
    ),
    "unknown law": (lambda: fitting.fit("chinchila", INPUTS, Y), r"No law named 'chinchila'. Nearest: chinchilla,"),
    "no law": (lambda: fitting.fit(None, INPUTS, Y), r"No law named None"),
    "a bare function": (lambda: fitting.fit(lambda p, x: 1.0, INPUTS, Y), r"bare function.*fitting.law"),
    "bnsl without breaks": (lambda: fitting.laws["bnsl0"], r"No law named 'bnsl0'"),
    "an objective by name": (lambda: fit(objective="huber"), r"objective='huber'.*Huber\(delta\)"),
    "delta": (lambda: fitting.Huber(-1), r"delta=-1.*positive"),
    "delta as text": (lambda: fitting.Huber("small"), r"delta='small'"),
    "no penalty": (lambda: fitting.LAD(overestimate_penalty=0), r"overestimate_penalty=0.*positive"),
    "unknown fixed": (lambda: fit(fixed={"gamma": 1.0}), r"no parameter 'gamma'; it has E, A, B, alpha, beta"),
    "fixed out of bounds": (lambda: fit(fixed={"alpha": -1}), r"fixed\['alpha'\] = -1 is outside the bounds \[0, 10\]"),
    "fixed not a number": (lambda: fit(fixed={"alpha": "x"}), r"fixed\['alpha'\] = 'x' is not a number"),
    "fixed as a list": (lambda: fit(fixed=["E"]), r"fixed=\['E'\] must be a dict"),
    "seed": (lambda: fit(seed="x"), r"seed='x' must be a whole number"),
    "no starts": (lambda: fit(starts=0), r"starts=0: give how many"),
    "a start that lacks parameters": (lambda: fit(starts=[{"A": 1.0}]), r"lacks E, B, alpha, beta"),
    "penalty as text": (lambda: fitting.LAD(overestimate_penalty="x"), r"overestimate_penalty='x' must be a number"),
    "select: y no column": (lambda: fitting.select(["chinchilla"], INPUTS, "loss"), r"'loss' is not a column"),
    "select: lengths": (lambda: fitting.select("chinchilla", {"N": N, "D": D[:4]}, Y), r"D has 4 values but N has 81"),
    "holdout: cut as text": (lambda: fitting.holdout("chinchilla", INPUTS, Y, cut="x"), r"cut='x' must be a positive"),
    "everything fixed": (lambda: fit(fixed=dict(E=1, A=1, B=1, alpha=1, beta=1)), r"leaves no parameter"),
    "own law: wrong shape": (lambda: own(lambda p, x: np.zeros(3) * p["a"]), r"returned shape \(3,\).*one number"),
    "own law: a tuple": (lambda: own(lambda p, x: (p["a"], 1)), r"returned a tuple"),
    "own law: nothing": (lambda: own(lambda p, x: None), r"returned a NoneType"),
    "own law: unknown name": (lambda: own(lambda p, x: p["b"] * x["x"]), r"asks for 'b'.*params are a.*inputs x"),
    "own law: numpy": (lambda: own(lambda p, x: np.exp(x["x"]) * p["a"]), r"jax.numpy"),
    "own law: mixes points": (
        lambda: own(lambda p, x: p["a"] * x["x"] / x["x"].mean()), r"mixes data points \(reduce_sum\)"
    ),
    "own law: bounds in disorder": (
        lambda: own(lambda p, x: p["a"], a=(3, 1)), r"bounds of 'a' are \(3, 1\); lo must be below hi"
    ),
    "own law: a parameter without a name": (
        lambda: fitting.law(lambda p, x: 1.0, params={1: (0, 1)}, inputs="x"), r"a parameter is called 1"
    ),
    "own law: no inputs": (lambda: fitting.law(lambda p, x: 1.0, params={"a": (0, 1)}, inputs=None), r"inputs=\(\)"),
    "own law: no bounds": (lambda: own(lambda p, x: p["a"], a=3), r"bounds of 'a' are 3; give a pair"),
    "own law: NaN": (
        lambda: fitting.fit(own(lambda p, x: p["a"] * (-x["x"]) ** 0.5), np.arange(1.0, 9), np.arange(1.0, 9)),
        r"no usable value.*y = nan at x=1 \(row 0\) with a=",
    ),
    "own law: negative under a logarithm": (
        lambda: fitting.fit(own(lambda p, x: -p["a"] * x["x"]), np.arange(1.0, 9), np.arange(1.0, 9)),
        r"no usable value.*y = -.*ln y.*cannot take",
    ),
}  # fmt: skip


def fit(y=Y, N=N, D=D, objective=None, **options):
    return fitting.fit("chinchilla", {"N": N, "D": D}, y, objective, **options)


@functools.cache
def forecast():
    return fitting.forecast(INPUTS, Y, laws=["chinchilla_tied"])


@pytest.fixture(scope="module")
def chinchilla():
    return fit()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_data_give_one_clear_message(case):
    call, message = case
    with pytest.raises(fitting.FitError, match=message) as error:
        call()
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)


ASKED = {
    "negative C": (lambda f: f.frontier(-1), r"C = -1: give positive and finite"),
    "NaN among C": (lambda f: f.frontier([1e20, np.nan]), r"C = nan"),
    "C as text": (lambda f: f.frontier("much"), r"C is not numeric: 'much'"),
    "negative cost": (lambda f: f.frontier(1e20, cost=lambda N, D: -1.0), r"cost\(N=1e\+09, D=1e\+10\) = -1"),
    "cost of one number": (lambda f: f.frontier(1e20, cost=lambda N: N), r"cost.* raises TypeError.*function of two"),
    "allowed is not a function": (lambda f: f.frontier(1e20, allowed=True), r"allowed=True must be a function"),
    "an input that the law lacks": (lambda f: f.frontier(1e20, inputs={"U": 1e9}), r"reads N, D.*; not U"),
    "an input that the frontier chooses": (lambda f: f.frontier(1e20, inputs={"N": 1e9}), r"chooses N and D; not N"),
    "inputs is not a dict": (lambda f: f.frontier(1e20, inputs="U"), r"inputs='U' must be a dict"),
    "profile of a derived exponent": (lambda f: f.profile("a"), r"derived.*fit.interval"),
    "seed of resampling": (lambda f: f.bootstrap(10, seed=2**40), r"seed=1099511627776 must be below"),
    "cost is not a function": (lambda f: f.frontier(1e20, cost=3), r"cost=3 must be a function"),
    "cost that does not rise": (lambda f: f.frontier(1e20, cost=lambda N, D: 5.0), r"a cost must increase"),
    "cap as text": (lambda f: f.frontier(1e20, max_N="x"), r"max_N='x' must be a positive number"),
    "extrapolation without D": (lambda f: fitting.extrapolation(f, {"N": 1e9}), r"needs the column 'D'"),
    "conventions of another length": (
        lambda f: fitting.sensitivity(f, conventions={"total": N[:3]}),
        r"total has 3 values but y has 81",
    ),
    "a folder that does not exist": (
        lambda f: f.to_json("/no/such/folder/fit.json"),
        r"fit.json cannot be written: No",
    ),
    "prediction without D": (lambda f: f.predict({"N": 1e9}), r"needs the column 'D'"),
    "prediction at a negative N": (lambda f: f.predict({"N": -1e9, "D": 1e9}), r"N = -1e\+09"),
    "shapes that do not broadcast": (
        lambda f: f.predict({"N": [1e9, 2e9], "D": [1e9, 2e9, 3e9]}),
        r"N \(2,\), D \(3,\)",
    ),
    "level in percent": (lambda f: f.predict({"N": 1e9, "D": 1e9}, level=90), r"level=90 must lie between 0 and 1"),
    "profile of nothing": (lambda f: f.profile("zeta"), r"cannot profile 'zeta': it has E, A, B, alpha, beta"),
    "no resamples": (lambda f: f.bootstrap(0), r"bootstrap\(n=0\)"),
    "unknown resampling": (lambda f: f.bootstrap(10, method="jackknife"), r"'jackknife'.*pairs, residual, wild"),
}


@pytest.mark.parametrize("case", ASKED.values(), ids=ASKED)
def test_bad_requests_of_a_fit_give_one_clear_message(case, chinchilla):
    call, message = case
    with pytest.raises(fitting.FitError, match=message):
        call(chinchilla)


class OnGpu:
    """As a tensor that NumPy cannot read."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu() first")


BOWLS = 3 + 0.01 * (np.arange(81) % 9 - 4.0) ** 2 - 0.1 * (np.arange(81) // 9)
SWEEPS = (N, D, np.repeat(np.geomspace(1e18, 1e22, 9), 9), BOWLS)
RAGGED = [[1], [1, 2], *range(79)]
MORE = {
    "isoflop: window": (lambda f: fitting.isoflop(*SWEEPS, window=4.5), r"window=4.5 must be a whole number"),
    "isoflop: noise": (lambda f: fitting.isoflop(*SWEEPS, noise="x"), r"noise='x' must be a positive number"),
    "isoflop: tolerance": (lambda f: fitting.isoflop(*SWEEPS, tolerance=-1), r"tolerance=-1 must be a positive"),
    "isoflop: a dict": (lambda f: fitting.isoflop({"N": N}, *SWEEPS[1:]), r"N is a dict; give one value per row"),
    "isoflop: frontier": (lambda f: fitting.isoflop(*SWEEPS).frontier(-1), r"C = -1: give positive"),
    "envelope: frontier": (lambda f: fitting.envelope(*SWEEPS).frontier("x"), r"C is not numeric: 'x'"),
    "approaches: target": (lambda f: fitting.approaches(*SWEEPS, target=-1), r"target=-1 must be a positive number"),
    "approaches: law": (lambda f: fitting.approaches(*SWEEPS, law="chinchila"), r"No law named 'chinchila'"),
    "select: y of other length": (lambda f: fitting.select("kaplan", INPUTS, Y[:3]), r"y has 3 values but.* 81 rows"),
    "select: objective": (lambda f: fitting.select("kaplan", INPUTS, Y, objective="huber"), r"objective='huber': give"),
    "compare: one recipe": (lambda f: fitting.compare({"A": (INPUTS, Y)}), r"recipes: \['A'\]; give at least two"),
    "compare: floor": (
        lambda f: fitting.compare({"A": (INPUTS, Y), "B": (INPUTS, Y)}, floor=None), r"floor=None: give \"shared\""
    ),
    "multiplier: text": (
        lambda f: fitting.compare({"A": (INPUTS, Y), "B": (INPUTS, Y)}).multiplier("x"), r"C is not numeric: 'x'"
    ),
    "no bootstrap": (lambda f: f.with_bootstrap(None), r"with_bootstrap\(None\): give a Bootstrap"),
    "suggest: a fit": (lambda f: fitting.suggest(f, 1e20), r"reads a forecast, from fitting.forecast, not Fit"),
    "suggest: shared": (lambda f: fitting.suggest(forecast(), 1e20, shared=3), r"shared=3: .* between 0 and 1"),
    "suggest: repeats": (lambda f: fitting.suggest(forecast(), 1e20, repeats="x"), r"repeats is not numeric"),
    "suggest: few repeats": (lambda f: fitting.suggest(forecast(), 1e20, repeats=[1, 2]), r"repeats has 2 values"),
    "suggest: trained": (lambda f: fitting.suggest(forecast(), 1e20, trained=3), r"trained=3: give a dict"),
    "forecast: no budget": (lambda f: forecast().frontier([]), r"C is empty"),
    "select: fractions": (lambda f: fitting.select("kaplan", INPUTS, Y, fractions=(2,)), r"between 0 and 1"),
    "select: negative C": (lambda f: fitting.select("kaplan", INPUTS, Y, C=-N), r"C = -.* at row 0.*must be positive"),
    "select: laws": (lambda f: fitting.select(None, INPUTS, Y), r"laws=None: give names or laws"),
    "select: no fractions": (lambda f: fitting.select("kaplan", INPUTS, Y, fractions=3), r"fractions=3: give shares"),
    "select: clusters": (lambda f: fitting.select("kaplan", INPUTS, Y, clusters=RAGGED), r"clusters is ragged"),
    "holdout: clusters": (
        lambda f: fitting.holdout("kaplan", INPUTS, Y, cut=1e20, clusters=RAGGED), r"clusters is ragged"
    ),
    "holdout: weights": (
        lambda f: fitting.holdout("kaplan", INPUTS, Y, cut=1e20, weights=[1, 2]), r"weights has 2 values but y has 81"
    ),
    "clusters that cannot be compared": (
        lambda f: fitting.fit("kaplan", INPUTS, Y, clusters=[{}] * 81), r"clusters = \{\} at row 0: give every row"
    ),
    "published: a list": (lambda f: fitting.published[["kaplan2020"]], r"No published fit named \['kaplan2020'\]"),
    "extrapolation of a published fit": (
        lambda f: fitting.extrapolation(fitting.published["kaplan2020"], INPUTS), r"extrapolation needs the data"
    ),
    "compare: clusters of another": (
        lambda f: fitting.compare({"A": (INPUTS, Y), "B": (INPUTS, Y)}, clusters={"C": [1]}),
        r"clusters names 'C', not a recipe; these are A, B",
    ),
    "select: C": (lambda f: fitting.select("kaplan", INPUTS, Y, C=spoiled(N, np.nan)), r"C = nan at row 3"),
    "holdout: C": (lambda f: fitting.holdout("kaplan", INPUTS, Y, cut=1e20, C="flops"), r"C='flops' is not a column"),
    "sensitivity: nothing": (lambda f: fitting.sensitivity(f, objectives=[]), r"objectives is empty"),
    "sensitivity: target": (lambda f: fitting.sensitivity(f, target="x"), r"target='x' must be a positive number"),
    "sensitivity: a list": (lambda f: fitting.sensitivity(f, conventions=[N]), r"conventions=list: give a dict"),
    "influence: refits": (lambda f: fitting.influence(f, refits="x"), r"refits='x' must be a whole number"),
    "next runs: budget": (lambda f: fitting.next_runs(f, "x"), r"budget='x' must be a positive number"),
    "next runs: target": (lambda f: fitting.next_runs(f, 1e20, target=-1), r"target=-1 must be a positive number"),
    "next runs: runs": (lambda f: fitting.next_runs(f, 1e20, runs=0), r"runs=0 must be a whole number, 1 or more"),
    "fit: a tensor elsewhere": (
        lambda f: fitting.fit("kaplan", {"N": OnGpu(), "D": D}, Y), r"N is a OnGpu that does not become.*Tensor.cpu\(\)"
    ),
    "predict: a tensor elsewhere": (lambda f: f.predict({"N": OnGpu(), "D": 1e9}), r"N is a OnGpu.*an array: can't"),
    "clusters elsewhere": (lambda f: fitting.fit("kaplan", INPUTS, Y, clusters=OnGpu()), r"clusters is a OnGpu"),
    "frontier: ragged": (lambda f: f.frontier([[1e20], [1e20, 1e21]]), r"C is ragged: give a number or an array"),
    "forecast: laws": (lambda f: fitting.forecast(INPUTS, Y, laws=np.array(3)), r"laws=array\(3\): give names"),
    "select: fractions of no dimension": (
        lambda f: fitting.select("kaplan", INPUTS, Y, fractions=np.array(0.5)), r"fractions=array\(0.5\): give shares"
    ),
    "select: a float32 cut": (
        lambda f: fitting.select("kaplan", INPUTS, Y, cut=np.float32(0.9)), r"cut=0.9 leaves no training points"
    ),
    "curves: tiny steps": (
        lambda f: fitting.fit_curves({"step": 1e-140 * np.arange(1, 9), "rate": 1 / np.arange(1, 9), "loss": Y[:8]}),
        r"step = 1e-140 at row 0.*correct its unit",
    ),
    "next runs: sizes": (lambda f: fitting.next_runs(f, 1e20, N=[1e9, np.inf]), r"N = inf: give positive"),
}  # fmt: skip


@pytest.mark.parametrize("case", MORE.values(), ids=MORE)
def test_bad_options_give_one_clear_message(case, chinchilla):
    call, message = case
    with pytest.raises(fitting.FitError, match=message) as error:
        call(chinchilla)
    assert "\n" not in str(error.value)


LABELLED, SHUFFLED = pd.DataFrame({"N": N, "D": D}), pd.Series(Y)[::-1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fitting.fit("chinchilla", LABELLED, SHUFFLED),
        lambda: fitting.forecast(LABELLED, SHUFFLED),
        lambda: fitting.forecast(LABELLED, Y, C=6 * pd.Series(N * D)[::-1]),
        lambda: fitting.select("kaplan", LABELLED, SHUFFLED),
        lambda: fitting.compare({"A": (LABELLED, SHUFFLED), "B": (LABELLED, Y)}),
        lambda: fitting.isoflop(LABELLED.N, LABELLED.D, 6 * N * D, SHUFFLED),
        lambda: fitting.published["besiroglu2024"].predict({"N": LABELLED.N, "D": LABELLED.D[::-1]}),
    ],
)
def test_rows_in_another_order_are_refused_everywhere(call):
    with pytest.raises(fitting.DataError, match="have the same row labels in a different order"):
        call()


def test_rows_of_other_labels_are_paired_by_position_with_a_warning(recwarn):
    """A table with rows left out, and the first values of its loss: the wrong ones after the gap."""
    gap = LABELLED.drop(index=[3, 4])
    with pytest.warns(fitting.FitWarning, match=r"y and N have different row labels \(3 and 5 at row 3\)"):
        fitting.fit("chinchilla", gap, pd.Series(Y).iloc[:79])
    recwarn.clear()
    fitting.fit("chinchilla", gap, pd.Series(Y)[gap.index])
    assert not [w for w in recwarn if "row labels" in str(w.message)]


def test_valid_data_of_every_kind_are_accepted():
    assert fit(np.r_[Y, Y[:4]], np.r_[N, N[:4]], np.r_[D, D[:4]]).duplicates == 4
    assert fit(N=np.full_like(N, 1e9), fixed={"A": 406.4, "alpha": 0.34}).converged
    table = pd.DataFrame({"N": N, "D": D, "loss": Y})
    assert fitting.fit("chinchilla", table, "loss").params == fit().params
    assert fitting.fit("chinchilla", table.convert_dtypes(), table.loss).params == fit().params
    assert fitting.fit("chinchilla", table.to_records(index=False), "loss").params == fit().params
    named = fitting.fit(
        "chinchilla", table.assign(w=N, trunk=["a", "b", 3] * 27), "loss", weights="w", clusters="trunk"
    )
    assert named.params == fit(weights=N).params and len(set(named.clusters)) == 3
    assert fit(np.ma.masked_array(Y)).params == fit().params
    assert fit(pd.Series(Y, index=range(1, 82)), N=pd.Series(N)).params == fit().params  # other labels: by position
    whole = fitting.fit("power", [1, 2, 4, 8], [8, 4, 2, 1])
    assert whole.params == pytest.approx({"A": 8, "alpha": 1})


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_absurd_numbers_pass_without_a_warning_of_numpy(chinchilla):
    # What rises is a constant to a law that falls: both exponents may vanish, and their ratio is not a number.
    rising = fitting.fit("chinchilla", INPUTS, np.arange(1.0, 82.0))
    assert "explains next to nothing" in str(rising) and rising.interval().keys() >= set("ab")
    vanished = fitting.Fit.from_params("chinchilla", {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.0, "beta": 0.0})
    assert np.isnan(vanished.exponents["a"]) and "a nan" in str(vanished).replace("= ", "")
    for k, size in (("A", 0.0), ("A", 1e-300), ("B", 1e-300), ("alpha", 0.0)):
        at = fitting.Fit.from_params("chinchilla", {**chinchilla.params, k: size}).frontier(1e21)
        assert np.isnan(at.loss) and "a term has vanished" in at.warnings[0]
    line = fitting.fit("farseer", INPUTS, np.linspace(1, -2, 81), fitting.LeastSquares())
    assert line.certificate.starts > 0
    C = 6 * N[:9] * D[:9]
    for unit in (1e140, 1e-140):  # of recipes that were not measured alike
        compared = fitting.compare({"A": (C, Y[:9]), "B": (C, unit * Y[:9])})
        assert compared.verdict == ("A is better" if unit > 1 else "B is better")
    assert fitting.compare({"A": (C, Y[:9]), "B": (C, 0.9 * Y[:9])}).table(np.array([[1e18, 1e19]])).shape == (2, 6)


def test_extrapolation_has_the_shape_of_the_points(chinchilla):
    square = fitting.extrapolation(chinchilla, {"N": N.reshape(9, 9), "D": D.reshape(9, 9)})
    flat = fitting.extrapolation(chinchilla, INPUTS)
    assert square.leverage.shape == square.factors["N"].shape == square.decades.shape == (9, 9)
    np.testing.assert_array_equal(square.leverage.ravel(), flat.leverage)
