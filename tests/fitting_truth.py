"""For each law, parameters like the published ones and a design that can identify them; independent formulas."""

import numpy as np
from scipy.optimize import brentq

TRUTH = {
    "power": {"A": 50.0, "alpha": 0.3},
    "power_offset": {"E": 1.7, "A": 400.0, "alpha": 0.34},
    "power_shifted": {"E": 1.7, "A": 4000.0, "x0": 1e8, "alpha": 0.4},
    "m4": {"E": 0.2, "E0": 4.0, "A": 2e4, "c": 0.5, "alpha": 0.6},
    "saturating": {"E": 0.8, "A": 30.0, "alpha": 0.3},
    "sigmoid": {"floor": 0.25, "gain": 0.6, "k": 4.0, "L0": 2.6},
    "exponential": {"eps": 0.85, "k": 2.2, "gamma": 0.7},
    "bnsl1": {"a": 0.4, "b": 2.0, "c0": 0.05, "c1": 0.5, "d1": 3e8, "f1": 0.3},
    "bnsl2": {"a": 0.4, "b": 5.0, "c0": 0.05, "c1": 0.5, "d1": 1e8, "f1": 0.2, "c2": -0.4, "d2": 3e9, "f2": 0.2},
    "kaplan": {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
    "chinchilla": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "chinchilla_tied": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353},
    "chinchilla_outer": {"E": 1.5, "A": 3000.0, "B": 9000.0, "alpha": 0.5, "beta": 0.55, "gamma": 0.6},
    "data_constrained": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.36, "R_D*": 15.0, "R_N*": 5.3},
    "transfer": {
        "E": 1.6, "A": 406.4, "B": 800.0, "alpha": 0.34, "beta": 0.3, "k": 200.0, "alpha_T": 0.45, "beta_T": 0.35,
    },
    "overtraining": {"E": 1.6, "a": 200.0, "b": 250.0, "eta": 0.14},
    "shape": {
        "E": 1.5, "A": 20.0, "B": 3.0, "P": 300.0, "T": 800.0, "alpha": 0.8, "beta": 0.9, "gamma": 0.4, "zeta": 0.35,
    },
    "farseer": {
        "a1": -0.124, "b1": 0.424, "alpha": 0.123, "a2": 88.01, "b2": -6.287, "beta": -0.1, "a3": -0.021, "b3": 0.091,
        "gamma": 0.169,
    },
    "bnsl1_signed": {"a": 0.9, "b": -2.0, "c0": 0.05, "c1": 0.5, "d1": 3e8, "f1": 0.3},
    "downstream": {"chance": 0.25, "A": 900.0, "B": 4000.0, "alpha": 0.37, "beta": 0.38},
    "downstream_scaled": {"chance": 0.25, "A": 900.0, "B": 4000.0, "alpha": 0.37, "beta": 0.38},
    "moe": {"L0": 1.2, "a": -0.082, "b": -0.108, "c": 0.009, "d": 2.604},
    "compression": {"A": 0.08, "gamma_N": 0.54, "gamma_D": 0.5},
    "lr_optimum": {"A": 1.79, "alpha": -0.713, "beta": 0.307},
    "batch_optimum": {"A": 0.58, "alpha": 0.05, "beta": 0.571},
}  # fmt: skip


def design(name, seed=0):
    """Inputs for a law, spread as a study would spread them."""
    rng = np.random.default_rng(seed)
    if name in ("sigmoid", "exponential"):
        return {"loss": np.linspace(1.8, 3.6, 40)}
    if name == "overtraining":
        return _grid(N=np.geomspace(1e7, 5e9, 8), M=np.geomspace(5, 640, 8))
    if name == "moe":
        return _grid(N=np.geomspace(1.5e7, 1.3e9, 6), E=2.0 ** np.arange(10))
    if name == "data_constrained":
        N, U = np.exp(rng.uniform(np.log(2e7), np.log(8e9), 220)), 10 ** rng.uniform(8, 10.5, 220)
        return {"N": N, "D": U * np.exp(rng.uniform(np.log(0.8), np.log(200), 220)), "U": U}
    if name == "transfer":
        both = _grid(N=np.geomspace(5e7, 5e9, 6), D=np.geomspace(1e9, 3e11, 6), before=np.array([0.0, 1e11]))
        return {"N": both["N"], "D": both["D"], "S": both["D"] + both["before"]}
    if name == "shape":
        width, depth = 2 ** rng.uniform(8, 12, 300), np.exp(rng.uniform(np.log(4), np.log(64), 300))
        N = 12 * width**2 * depth * np.exp(rng.normal(0, 0.5, 300))
        return {"width": width, "depth": depth, "N": N, "D": 10 ** rng.uniform(9, 11.5, 300)}
    if name in ("power", "power_offset", "power_shifted", "m4", "saturating", "bnsl1", "bnsl1_signed", "bnsl2"):
        return {"x": np.geomspace(1e7, 1e11, 60)}
    return _grid(N=np.geomspace(5e7, 5e9, 9), D=np.geomspace(1e9, 3e11, 9))


def _grid(**axes):
    mesh = np.meshgrid(*axes.values())
    return {k: v.ravel() for k, v in zip(axes, mesh)}


def _m4(p, x):
    def gap(y):
        return np.log(y - p["E"]) - p["alpha"] * np.log(p["E0"] - y) - np.log(p["A"]) + p["c"] * np.log(x)

    return brentq(gap, p["E"] * (1 + 1e-14) + 1e-15, p["E0"] * (1 - 1e-14), xtol=1e-15, rtol=1e-14)


def _repeated(p, N, D, U):
    # Muennighoff et al. 2023, eq. 5 and 6, and their footnote on N_opt(U)
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    UN = min(N, (U * G) ** (p["beta"] / p["alpha"]) * G)
    UD = min(D, U)
    RN, RD = max(N / UN - 1, 0), max(D / U - 1, 0)
    n = UN + UN * p["R_N*"] * (1 - np.exp(-RN / p["R_N*"]))
    d = UD + UD * p["R_D*"] * (1 - np.exp(-RD / p["R_D*"]))
    return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]


def _transferred(p, N, D, S):
    effective = D + (p["k"] * D ** p["alpha_T"] * N ** p["beta_T"] if S > D else 0.0)
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / effective ** p["beta"]


def _broken(p, x, breaks):
    y = p["b"] * x ** -p["c0"]
    for i in range(1, breaks + 1):
        y *= (1 + (x / p[f"d{i}"]) ** (1 / p[f"f{i}"])) ** (-p[f"c{i}"] * p[f"f{i}"])
    return p["a"] + y


# One point at a time, in plain Python, as the papers print them.
FORMULA = {
    "power": lambda p, x: p["A"] * x ** -p["alpha"],
    "power_offset": lambda p, x: p["E"] + p["A"] * x ** -p["alpha"],
    "power_shifted": lambda p, x: p["E"] + p["A"] * (x + p["x0"]) ** -p["alpha"],
    "m4": _m4,
    "saturating": lambda p, x: p["E"] - p["A"] * x ** -p["alpha"],
    "sigmoid": lambda p, loss: p["floor"] + p["gain"] / (1 + np.exp(p["k"] * (loss - p["L0"]))),
    "exponential": lambda p, loss: p["eps"] - p["k"] * np.exp(-p["gamma"] * loss),
    "bnsl1": lambda p, x: _broken(p, x, 1),
    "bnsl1_signed": lambda p, x: _broken(p, x, 1),
    "downstream": lambda p, N, D: p["chance"] + np.exp(-(p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"])),
    "downstream_scaled": lambda p, N, D: (
        p["chance"] + (1 - p["chance"]) * np.exp(-(p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]))
    ),
    "bnsl2": lambda p, x: _broken(p, x, 2),
    "kaplan": lambda p, N, D: ((p["Nc"] / N) ** (p["alpha_N"] / p["alpha_D"]) + p["Dc"] / D) ** p["alpha_D"],
    "chinchilla": lambda p, N, D: p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"],
    "chinchilla_tied": lambda p, N, D: p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["alpha"],
    "chinchilla_outer": lambda p, N, D: p["E"] + (p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]) ** p["gamma"],
    "data_constrained": _repeated,
    "transfer": _transferred,
    "overtraining": lambda p, N, M: (
        p["E"] + (p["a"] * M ** p["eta"] + p["b"] * M ** -p["eta"]) * (6 * N * N * M) ** -p["eta"]
    ),
    "shape": lambda p, width, depth, N, D: (
        p["E"]
        + p["A"] / width ** p["alpha"]
        + p["B"] / depth ** p["beta"]
        + p["P"] / N ** p["gamma"]
        + p["T"] / D ** p["zeta"]
    ),
    "farseer": lambda p, N, D: (
        np.exp(p["a3"] * N ** p["gamma"] + p["b3"])
        + np.exp(p["a2"] * N ** p["beta"] + p["b2"]) * D ** -np.exp(p["a1"] * N ** p["alpha"] + p["b1"])
    ),
    "moe": lambda p, N, E: (
        p["L0"] + np.exp(p["a"] * np.log(N) + p["b"] * np.log(E) + p["c"] * np.log(N) * np.log(E) + p["d"])
    ),
    "compression": lambda p, N, D: p["A"] * D ** p["gamma_D"] / N ** p["gamma_N"],
    "lr_optimum": lambda p, N, D: p["A"] * N ** p["alpha"] * D ** p["beta"],
    "batch_optimum": lambda p, N, D: p["A"] * N ** p["alpha"] * D ** p["beta"],
}


def noisy(name, noise, seed=0):
    """(inputs, y) from the truth of a law with log-normal noise."""
    inputs = design(name, seed)
    columns = list(inputs.values())
    y = np.array([FORMULA[name](TRUTH[name], *row) for row in zip(*columns)])
    return inputs, y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(y)))
