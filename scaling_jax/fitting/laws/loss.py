"""Laws of the loss in parameters N and tokens D (and unique tokens U, or tokens per parameter M)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from scaling_jax.fitting.laws.base import Coordinate, Law
from scaling_jax.fitting.laws.single import ANY, LEVEL, POSITIVE, centered, exp, power

EXPONENT = Coordinate("plain", start=(0.02, 1.5))
EXPONENT_BOUNDS = (0.0, 10.0)


def _share(one: str, other: str) -> Callable[[Mapping[str, Any]], Any]:
    """One exponent as a part of the sum of both; nan where both vanish."""

    def share(p: Mapping[str, Any]) -> Any:
        with np.errstate(invalid="ignore"):
            return np.divide(p[one], np.add(p[one], p[other]))

    return share


A_EXPONENT = {"a": _share("beta", "alpha"), "b": _share("alpha", "beta")}


def _sum_optimum(p: Mapping[str, Any], C: Any) -> Any:
    """N that minimizes A/N^alpha + B/D^beta on 6ND = C: Hoffmann et al. 2022, eq. 4."""
    s = p["alpha"] + p["beta"]
    scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / s)
    return scale * (C / 6.0) ** (p["beta"] / s)


kaplan = Law(
    name="kaplan",
    params=("Nc", "Dc", "alpha_N", "alpha_D"),
    inputs=("N", "D"),
    equation="L = ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D",
    reference="Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5",
    function=lambda p, x: power(power(p["Nc"] / x["N"], p["alpha_N"] / p["alpha_D"]) + p["Dc"] / x["D"], p["alpha_D"]),
    bounds={"Nc": POSITIVE, "Dc": POSITIVE, "alpha_N": (5e-3, 10.0), "alpha_D": (5e-3, 10.0)},
    coordinates={
        # Loss^(1/alpha) is the size of each ratio: small exponents put Nc and Dc far above the data.
        "Nc": Coordinate(
            "log", lambda p, m: exp(m["N"] + m["y"] / p["alpha_N"]), start=(-12.0, 3.0), limits=(-200.0, 200.0)
        ),
        "Dc": Coordinate(
            "log", lambda p, m: exp(m["D"] + m["y"] / p["alpha_D"]), start=(-12.0, 3.0), limits=(-200.0, 200.0)
        ),
        "alpha_N": Coordinate("plain", start=(0.02, 0.6)),
        "alpha_D": Coordinate("plain", start=(0.02, 0.6)),
    },
    optimal_N=lambda p, C: _sum_optimum(
        {
            "A": p["Nc"] ** (p["alpha_N"] / p["alpha_D"]),
            "B": p["Dc"],
            "alpha": p["alpha_N"] / p["alpha_D"],
            "beta": 1.0,
        },
        C,
    ),
    exponents={"a": _share("alpha_D", "alpha_N"), "b": _share("alpha_N", "alpha_D")},
)

chinchilla = Law(
    name="chinchilla",
    params=("E", "A", "B", "alpha", "beta"),
    asymptotes=("E",),
    inputs=("N", "D"),
    equation="L = E + A / N^alpha + B / D^beta",
    reference="Hoffmann et al. 2022, arXiv:2203.15556, approach 3",
    function=lambda p, x: p["E"] + p["A"] * power(x["N"], -p["alpha"]) + p["B"] * power(x["D"], -p["beta"]),
    bounds={"E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT_BOUNDS, "beta": EXPONENT_BOUNDS},
    coordinates={
        "E": LEVEL, "A": centered("alpha", "N"), "B": centered("beta", "D"), "alpha": EXPONENT, "beta": EXPONENT,
    },
    optimal_N=_sum_optimum,
    exponents=A_EXPONENT,
)  # fmt: skip

chinchilla_tied = Law(
    name="chinchilla_tied",
    params=("E", "A", "B", "alpha"),
    asymptotes=("E",),
    inputs=("N", "D"),
    equation="L = E + A / N^alpha + B / D^alpha",
    reference="Muennighoff et al. 2023, arXiv:2305.16264, sec. 3: alpha = beta",
    function=lambda p, x: p["E"] + p["A"] * power(x["N"], -p["alpha"]) + p["B"] * power(x["D"], -p["alpha"]),
    bounds={"E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT_BOUNDS},
    coordinates={"E": LEVEL, "A": centered("alpha", "N"), "B": centered("alpha", "D"), "alpha": EXPONENT},
    optimal_N=lambda p, C: _sum_optimum({**p, "beta": p["alpha"]}, C),
    exponents={"a": lambda p: 0.5 + 0.0 * p["alpha"], "b": lambda p: 0.5 + 0.0 * p["alpha"]},
)


def _outer(name: str, other: str, exponent: str) -> Coordinate:
    """A term of chinchilla_outer: its coordinate is the size that the whole law would have if it were alone."""
    return Coordinate(
        "log", lambda p, m: exp(p[exponent] * m[other] + m["y"] / p["gamma"]), start=(-6.0, 2.0), limits=(-80.0, 80.0)
    )


chinchilla_outer = Law(
    name="chinchilla_outer",
    params=("E", "A", "B", "alpha", "beta", "gamma"),
    asymptotes=("E",),
    inputs=("N", "D"),
    equation="L = E + (A / N^alpha + B / D^beta)^gamma",
    reference="Beck et al. 2025 (xLSTM Scaling Laws), arXiv:2510.02228",
    function=lambda p, x: p["E"]
    + power(p["A"] * power(x["N"], -p["alpha"]) + p["B"] * power(x["D"], -p["beta"]), p["gamma"]),
    bounds={
        "E": POSITIVE, "A": POSITIVE, "B": POSITIVE,
        "alpha": EXPONENT_BOUNDS, "beta": EXPONENT_BOUNDS, "gamma": (0.01, 20.0),
    },
    coordinates={
        "E": LEVEL, "A": _outer("A", "N", "alpha"), "B": _outer("B", "D", "beta"),
        "alpha": EXPONENT, "beta": EXPONENT, "gamma": Coordinate("log", start=(-1.5, 1.5), limits=(-4.6, 3.0)),
    },
    optimal_N=_sum_optimum,
    exponents=A_EXPONENT,
)  # fmt: skip


def _log_effective(log_total: Any, log_unique: Any, decay: Any) -> Any:
    """Logarithm of the worth of `total` when only `unique` of it is new: unique (1 + R* (1 - exp(-R / R*))).

    R = total/unique - 1. In logarithms, as unique may be too small for a float where its worth is still seen.
    """
    repeats = jnp.expm1(jnp.clip(log_total - log_unique, 0.0, 600.0))
    return log_unique + jnp.log1p(-decay * jnp.expm1(-repeats / decay))


def _data_constrained(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    # N_opt(U): the parameters that U unique tokens deserve; the excess beyond them decays like repeated tokens.
    log = {k: jnp.log(x[k]) for k in ("N", "D", "U")}
    log_g = (jnp.log(p["alpha"] * p["A"]) - jnp.log(p["beta"] * p["B"])) / (p["alpha"] + p["beta"])
    log_n_opt = (log["U"] + log_g) * (p["beta"] / p["alpha"]) + log_g
    log_n = _log_effective(log["N"], jnp.minimum(log["N"], log_n_opt), p["R_N*"])
    log_d = _log_effective(log["D"], jnp.minimum(log["D"], log["U"]), p["R_D*"])
    return p["E"] + p["A"] * jnp.exp(-p["alpha"] * log_n) + p["B"] * jnp.exp(-p["beta"] * log_d)


data_constrained = Law(
    name="data_constrained",
    params=("E", "A", "B", "alpha", "beta", "R_D*", "R_N*"),
    asymptotes=("E",),
    inputs=("N", "D", "U"),
    equation="L = E + A / N'^alpha + B / D'^beta, D' = U (1 + R_D* (1 - exp(-R_D / R_D*))), N' likewise with R_N*",
    reference="Muennighoff et al. 2023, arXiv:2305.16264, eq. 5-6; U unique tokens, R_D = D/U - 1",
    function=_data_constrained,
    bounds={
        "E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": (1e-3, 10.0), "beta": (1e-3, 10.0),
        "R_D*": POSITIVE, "R_N*": POSITIVE,
    },
    coordinates={
        "E": LEVEL,
        "A": Coordinate("log", lambda p, m: exp(p["alpha"] * m["N"] + m["y"]), start=(-4.0, 0.5), limits=(-80.0, 80.0)),
        "B": Coordinate("log", lambda p, m: exp(p["beta"] * m["D"] + m["y"]), start=(-4.0, 0.5), limits=(-80.0, 80.0)),
        "alpha": Coordinate("plain", start=(0.1, 1.0)), "beta": Coordinate("plain", start=(0.1, 1.0)),
        "R_D*": Coordinate("log", start=(-1.0, 5.0), limits=(-7.0, 25.0)),
        "R_N*": Coordinate("log", start=(-1.0, 5.0), limits=(-7.0, 25.0)),
    },
    constant_allowed=("U",),
    # The range Muennighoff et al. searched. Beyond it repeats count as new data, or excess parameters as useless.
    plausible_range={"R_D*": (0.0, 20.0), "R_N*": (0.0, 20.0)},
)  # fmt: skip


def _transfer(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    transferred = p["k"] * power(x["D"], p["alpha_T"]) * power(x["N"], p["beta_T"])
    d = x["D"] + jnp.where(x["S"] > x["D"] * (1 + 1e-9), transferred, 0.0)
    return p["E"] + p["A"] * power(x["N"], -p["alpha"]) + p["B"] * power(d, -p["beta"])


transfer = Law(
    name="transfer",
    params=("E", "A", "B", "alpha", "beta", "k", "alpha_T", "beta_T"),
    asymptotes=("E",),
    inputs=("N", "D", "S"),
    equation="L = E + A / N^alpha + B / (D + D_T)^beta, D_T = k D^alpha_T N^beta_T where S > D, else 0",
    reference="Hernandez et al. 2021, arXiv:2102.01293, sec. 1 (D_T, effective data transferred), over chinchilla; "
    "S is D with what was seen before",
    function=_transfer,
    bounds={
        "E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT_BOUNDS, "beta": EXPONENT_BOUNDS,
        "k": POSITIVE, "alpha_T": (-5.0, 5.0), "beta_T": (-5.0, 5.0),
    },
    coordinates={
        "E": LEVEL, "A": centered("alpha", "N"), "B": centered("beta", "D"), "alpha": EXPONENT, "beta": EXPONENT,
        # D_T / D at the center of the data.
        "k": Coordinate(
            "log", lambda p, m: exp((1.0 - p["alpha_T"]) * m["D"] - p["beta_T"] * m["N"]), start=(-4.0, 4.0),
            limits=(-20.0, 20.0),
        ),
        "alpha_T": Coordinate("plain", start=(-0.5, 1.5)), "beta_T": Coordinate("plain", start=(-1.0, 1.5)),
    },
)  # fmt: skip

overtraining = Law(
    name="overtraining",
    params=("E", "a", "b", "eta"),
    asymptotes=("E",),
    inputs=("N", "M"),
    equation="L = E + (a M^eta + b M^-eta) C^-eta, C = 6 N^2 M, M = D/N",
    reference="Gadre et al. 2024, arXiv:2403.08540, eq. 4; eta is half of chinchilla_tied's alpha",
    function=lambda p, x: (
        p["E"]
        + p["a"] * power(6.0 * x["N"] * x["N"], -p["eta"])
        + p["b"] * power(6.0 * (x["N"] * x["M"]) * (x["N"] * x["M"]), -p["eta"])
    ),
    bounds={"E": POSITIVE, "a": POSITIVE, "b": POSITIVE, "eta": (0.0, 5.0)},
    coordinates={
        "E": LEVEL,
        "a": Coordinate("linear", lambda p, m: exp(p["eta"] * 2.0 * m["N"] + m["y"])),
        "b": Coordinate("linear", lambda p, m: exp(p["eta"] * 2.0 * (m["N"] + m["M"]) + m["y"])),
        "eta": Coordinate("plain", start=(0.01, 0.75)),
    },
    optimal_N=lambda p, C: (C / 6.0 * (p["a"] / p["b"]) ** (1 / (2 * p["eta"]))) ** 0.5,
    exponents={"a*": lambda p: 0.5 + 0.0 * p["eta"], "b*": lambda p: 0.5 + 0.0 * p["eta"]},
    from_nd=lambda x: {"N": x["N"], "M": x["D"] / x["N"]},
    to_nd=lambda x: (x["N"], x["N"] * x["M"]),
)


def _farseer(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    n = {k: power(x["N"], p[k]) for k in ("alpha", "beta", "gamma")}
    log_d_term = p["a2"] * n["beta"] + p["b2"] - jnp.exp(p["a1"] * n["alpha"] + p["b1"]) * jnp.log(x["D"])
    return jnp.exp(p["a3"] * n["gamma"] + p["b3"]) + jnp.exp(log_d_term)


def _box_cox(k: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    return lambda p, m: exp(-p[k] * m["N"]) / p[k]


def _level(a: str, k: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    return lambda p, m: -p[a] * exp(p[k] * m["N"])


def _exponent_at_center(p: Mapping[str, Any], m: Mapping[str, Any]) -> tuple[Any, Any]:
    """Exponent of D at the center of N, and its slope in ln N there."""
    a1 = p["a1"] * exp(p["alpha"] * m["N"])
    exponent = exp(a1 + p["b1"])
    return exponent, exponent * a1 * p["alpha"]


def _slope_of_term(p: Mapping[str, Any], m: Mapping[str, Any]) -> Any:
    return _box_cox("beta")(p, m) * _exponent_at_center(p, m)[1] * m["D"]


def _level_of_term(p: Mapping[str, Any], m: Mapping[str, Any]) -> Any:
    return _level("a2", "beta")(p, m) + _exponent_at_center(p, m)[0] * m["D"] + m["y"]


def _log_floor(p: Mapping[str, Any], m: Mapping[str, Any]) -> Any:
    return _level("a3", "gamma")(p, m) + m["y"]


_CURVATURE = Coordinate("plain", start=(-1.0, 1.0))

farseer = Law(
    name="farseer",
    params=("a1", "b1", "alpha", "a2", "b2", "beta", "a3", "b3", "gamma"),
    inputs=("N", "D"),
    equation="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    reference="Li et al. 2025, arXiv:2506.10972, eq. 3",
    function=_farseer,
    bounds={k: ANY for k in ("a1", "b1", "a2", "b2", "a3", "b3")}
    | {k: (-2.0, 2.0) for k in ("alpha", "beta", "gamma")},
    # Each a N^k + b is moved as slope * ((N/center)^k - 1) / k + level, which is smooth through k = 0; the term in D
    # has its level and slope taken at the center of D.
    coordinates={
        "alpha": _CURVATURE, "beta": _CURVATURE, "gamma": _CURVATURE,
        "a1": Coordinate("plain", _box_cox("alpha"), start=(-1.0, 1.0), limits=(-20.0, 20.0)),
        "b1": Coordinate("plain", None, _level("a1", "alpha"), start=(-2.5, 0.5), limits=(-20.0, 5.0)),
        "a2": Coordinate("plain", _box_cox("beta"), _slope_of_term, start=(-2.0, 2.0), limits=(-20.0, 20.0)),
        "b2": Coordinate("plain", None, _level_of_term, start=(-8.0, 0.5), limits=(-40.0, 20.0)),
        "a3": Coordinate("plain", _box_cox("gamma"), start=(-0.6, 0.4), limits=(-20.0, 20.0)),
        "b3": Coordinate("plain", None, _log_floor, start=(-2.0, 0.3), limits=(-40.0, 20.0)),
    },
)  # fmt: skip

LAWS = (kaplan, chinchilla, chinchilla_tied, chinchilla_outer, data_constrained, transfer, overtraining, farseer)
