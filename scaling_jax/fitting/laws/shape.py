"""Laws beside the loss in N and D: width and depth, experts, the best rate and batch size, what compression costs."""

from __future__ import annotations

import jax.numpy as jnp

from scaling_jax.fitting.laws.base import Coordinate, Law
from scaling_jax.fitting.laws.loss import EXPONENT, EXPONENT_BOUNDS
from scaling_jax.fitting.laws.single import ANY, LEVEL, POSITIVE, centered, exp, power

shape = Law(
    name="shape",
    params=("E", "A", "B", "P", "T", "alpha", "beta", "gamma", "zeta"),
    asymptotes=("E",),
    inputs=("width", "depth", "N", "D"),
    equation="L = E + A / width^alpha + B / depth^beta + P / N^gamma + T / D^zeta",
    reference="McLeish et al. 2025 (Gemstones), arXiv:2502.06857, sec. 4.2",
    function=lambda p, x: p["E"]
    + p["A"] * power(x["width"], -p["alpha"])
    + p["B"] * power(x["depth"], -p["beta"])
    + p["P"] * power(x["N"], -p["gamma"])
    + p["T"] * power(x["D"], -p["zeta"]),
    bounds={k: POSITIVE for k in "EABPT"} | {k: EXPONENT_BOUNDS for k in ("alpha", "beta", "gamma", "zeta")},
    coordinates={
        "E": LEVEL, "A": centered("alpha", "width"), "B": centered("beta", "depth"), "P": centered("gamma", "N"),
        "T": centered("zeta", "D"), "alpha": EXPONENT, "beta": EXPONENT, "gamma": EXPONENT, "zeta": EXPONENT,
    },
)  # fmt: skip

moe = Law(
    name="moe",
    params=("L0", "a", "b", "c", "d"),
    asymptotes=("L0",),
    inputs=("N", "E"),
    equation="L = L0 + exp(a ln N + b ln E + c ln N ln E + d)",
    reference="Clark et al. 2022, arXiv:2202.01169, eq. 1 (E experts, untransformed); theirs has no floor: L0 = 0",
    function=lambda p, x: (
        p["L0"]
        + jnp.exp(
            p["a"] * jnp.log(x["N"]) + p["b"] * jnp.log(x["E"]) + p["c"] * jnp.log(x["N"]) * jnp.log(x["E"]) + p["d"]
        )
    ),
    bounds={"L0": POSITIVE, **{k: ANY for k in "abcd"}},
    # Around the center of the data: ln (L - L0) = d' + a' n + b' e + c n e with n = ln N - m["N"], e = ln E - m["E"].
    coordinates={
        "L0": LEVEL,
        "a": Coordinate("plain", None, lambda p, m: -p["c"] * m["E"], start=(-0.6, 0.1)),
        "b": Coordinate("plain", None, lambda p, m: -p["c"] * m["N"], start=(-0.6, 0.1)),
        "c": Coordinate("plain", start=(-0.05, 0.05)),
        "d": Coordinate(
            "plain",
            None,
            lambda p, m: m["y"] - p["a"] * m["N"] - p["b"] * m["E"] - p["c"] * m["N"] * m["E"],
            start=(-3.0, 0.5),
            limits=(-20.0, 20.0),
        ),
    },
)


def _hyperparameter(name: str, equation: str, reference: str) -> Law:
    return Law(
        name=name,
        params=("A", "alpha", "beta"),
        inputs=("N", "D"),
        equation=equation,
        reference=reference,
        function=lambda p, x: p["A"] * power(x["N"], p["alpha"]) * power(x["D"], p["beta"]),
        bounds={"A": POSITIVE, "alpha": (-10.0, 10.0), "beta": (-10.0, 10.0)},
        coordinates={
            "A": Coordinate("linear", lambda p, m: exp(m["y"] - p["alpha"] * m["N"] - p["beta"] * m["D"])),
            "alpha": Coordinate("plain", start=(-1.0, 1.0)),
            "beta": Coordinate("plain", start=(-1.0, 1.0)),
        },
        lower_is_better=False,
    )


lr_optimum = _hyperparameter(
    "lr_optimum", "lr = A N^alpha D^beta", "Li et al. 2025 (Step Law), arXiv:2503.04715, eq. 1"
)
batch_optimum = _hyperparameter(
    "batch_optimum", "batch = A N^alpha D^beta", "Li et al. 2025 (Step Law), arXiv:2503.04715, eq. 1 (there alpha = 0)"
)

compression = Law(
    name="compression",
    params=("A", "gamma_N", "gamma_D"),
    inputs=("N", "D"),
    equation="y = A D^gamma_D / N^gamma_N",
    reference="Kumar et al. 2024, arXiv:2411.04330, sec. 3: what rounding trained weights adds to the loss",
    function=lambda p, x: p["A"] * power(x["D"], p["gamma_D"]) * power(x["N"], -p["gamma_N"]),
    bounds={"A": POSITIVE, "gamma_N": (-10.0, 10.0), "gamma_D": (-10.0, 10.0)},
    coordinates={
        "A": Coordinate("linear", lambda p, m: exp(m["y"] - p["gamma_D"] * m["D"] + p["gamma_N"] * m["N"])),
        "gamma_N": Coordinate("plain", start=(-1.0, 1.0)),
        "gamma_D": Coordinate("plain", start=(-1.0, 1.0)),
    },
    lower_is_better=False,
)

LAWS = (shape, moe, lr_optimum, batch_optimum, compression)
