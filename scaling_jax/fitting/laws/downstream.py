"""Laws of a task's accuracy in parameters N and tokens D, without the loss in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from scaling_jax.fitting.laws.base import Coordinate, Law
from scaling_jax.fitting.laws.loss import A_EXPONENT, EXPONENT, EXPONENT_BOUNDS, _sum_optimum
from scaling_jax.fitting.laws.single import POSITIVE, exp, power


def _shortfall(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """-ln of the share of what there is to gain that has been gained."""
    return p["A"] * power(x["N"], -p["alpha"]) + p["B"] * power(x["D"], -p["beta"])


def _term(exponent: str, of: str) -> Coordinate:
    return Coordinate("log", lambda p, m: exp(p[exponent] * m[of]), start=(-4.0, 1.5), limits=(-60.0, 60.0))


def _downstream(name: str, equation: str, gain: Callable[[Mapping[str, Any]], Any], reference: str) -> Law:
    return Law(
        name=name,
        params=("chance", "A", "B", "alpha", "beta"),
        inputs=("N", "D"),
        equation=equation,
        reference=reference,
        function=lambda p, x: p["chance"] + gain(p) * jnp.exp(-_shortfall(p, x)),
        bounds={
            "chance": (0.0, 1.0), "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT_BOUNDS, "beta": EXPONENT_BOUNDS,
        },
        coordinates={
            "chance": Coordinate("linear"), "A": _term("alpha", "N"), "B": _term("beta", "D"),
            "alpha": EXPONENT, "beta": EXPONENT,
        },
        optimal_N=_sum_optimum,
        exponents=A_EXPONENT,
    )  # fmt: skip


downstream = _downstream(
    "downstream",
    "-ln(y - chance) = A / N^alpha + B / D^beta",
    lambda p: 1.0,
    "Krajewski et al. 2025, arXiv:2512.08894, in N and D; y an accuracy; fix the chance level if known",
)
downstream_scaled = _downstream(
    "downstream_scaled",
    "-ln((y - chance) / (1 - chance)) = A / N^alpha + B / D^beta",
    lambda p: 1.0 - p["chance"],
    "the same (Krajewski et al. 2025) with the gain over chance in parts of what is left, so that y tends to 1",
)

LAWS = (downstream, downstream_scaled)
