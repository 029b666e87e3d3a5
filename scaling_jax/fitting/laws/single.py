"""Laws of one variable: any metric against compute, parameters, tokens or time (`x`), or against the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from scaling_jax.fitting.laws.base import INF, Coordinate, Law

POSITIVE, ANY = (0.0, INF), (-INF, INF)


def power(x: Any, exponent: Any) -> Any:
    """x ** exponent for positive x, in the form whose derivatives cost least."""
    return jnp.exp(exponent * jnp.log(x))


def _of_either(of_jax: Callable[..., Any], of_numpy: Callable[..., Any]) -> Callable[..., Any]:
    """Units and shifts are evaluated both inside a trace and on plain numbers, where JAX would start a backend."""
    return lambda *args: (of_jax if any(isinstance(a, Tracer) for a in args) else of_numpy)(*args)


exp, log, _logaddexp = (
    _of_either(*pair) for pair in ((jnp.exp, np.exp), (jnp.log, np.log), (jnp.logaddexp, np.logaddexp))
)


def centered(exponent: str, of: str) -> Coordinate:
    """Coordinate of A in A / of^exponent: the size of the term at the center of the data."""
    return Coordinate("linear", lambda p, m: exp(p[exponent] * m[of] + m["y"]))


EXPONENT = Coordinate("plain", start=(-0.5, 2.0))
LEVEL = Coordinate("linear", lambda p, m: exp(m["y"]))

power_law = Law(
    name="power",
    params=("A", "alpha"),
    inputs=("x",),
    equation="y = A / x^alpha",
    reference="Hestness et al. 2017, arXiv:1712.00409; alpha < 0 increases",
    function=lambda p, x: p["A"] * power(x["x"], -p["alpha"]),
    bounds={"A": POSITIVE, "alpha": (-20.0, 20.0)},
    coordinates={"A": centered("alpha", "x"), "alpha": EXPONENT},
)

power_offset = Law(
    name="power_offset",
    params=("E", "A", "alpha"),
    asymptotes=("E",),
    inputs=("x",),
    equation="y = E + A / x^alpha",
    reference="Henighan et al. 2020, arXiv:2010.14701; alpha < 0 grows from the floor E",
    function=lambda p, x: p["E"] + p["A"] * power(x["x"], -p["alpha"]),
    bounds={"E": POSITIVE, "A": POSITIVE, "alpha": (-20.0, 20.0)},
    coordinates={"E": LEVEL, "A": centered("alpha", "x"), "alpha": EXPONENT},
)

power_shifted = Law(
    name="power_shifted",
    params=("E", "A", "x0", "alpha"),
    asymptotes=("E",),
    inputs=("x",),
    equation="y = E + A / (x + x0)^alpha",
    reference="Zhai et al. 2022, arXiv:2106.04560, eq. 1: flat below x0, a power law above it",
    function=lambda p, x: p["E"] + p["A"] * power(x["x"] + p["x0"], -p["alpha"]),
    bounds={"E": POSITIVE, "A": POSITIVE, "x0": POSITIVE, "alpha": (-20.0, 20.0)},
    coordinates={
        "E": LEVEL,
        "x0": Coordinate("log", lambda p, m: exp(m["x"]), start=(-1.0, 0.5), spans="x", limits=(-12.0, 12.0)),
        "alpha": EXPONENT,
        # the size of the term at the center of the data, where x0 may be far above them
        "A": Coordinate("linear", lambda p, m: exp(p["alpha"] * log(exp(m["x"]) + p["x0"]) + m["y"])),
    },
)


@jax.custom_jvp
def _log_odds(alpha: Any, target: Any) -> Any:
    """The root u, within +-80, of u - (1 - alpha) ln(1 + e^u) = target, by Halley's method.

    The left side is concave for alpha < 1 and convex above, between u and alpha u, with a slope of at least
    min(alpha, 1): steps from the asymptote on the right side cannot overshoot.
    """
    asymptote = target / alpha
    u = jnp.where(alpha < 1, jnp.maximum(target, asymptote), jnp.minimum(target, asymptote))
    u = jnp.clip(u, -80.0, 80.0)
    for _ in range(5):
        odds = jnp.exp(u)
        rest = 1.0 / (1.0 + odds)
        bend = (1.0 - alpha) * odds * rest
        slope = 1.0 - bend
        newton = (u - (1.0 - alpha) * jnp.log1p(odds) - target) / slope
        u = jnp.clip(u - newton / jnp.clip(1.0 + 0.5 * newton * bend * rest / slope, 0.5, 2.0), -80.0, 80.0)
    return u


@_log_odds.defjvp
def _log_odds_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """By the implicit function theorem; differentiating it again gives the second derivatives."""
    alpha, u = primals[0], _log_odds(*primals)
    slope = 1.0 - (1.0 - alpha) * jax.lax.logistic(u)
    return u, (tangents[1] - jnp.log1p(jnp.exp(u)) * tangents[0]) / slope


def _m4(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """y between E0 and E that solves |y - E| / |E0 - y|^alpha = A / x^c, through the log-odds of its place."""
    gap = p["E0"] - p["E"]
    target = jnp.log(p["A"]) - p["c"] * jnp.log(x["x"]) - (1.0 - p["alpha"]) * jnp.log(jnp.abs(gap))
    return p["E"] + gap * jax.lax.logistic(_log_odds(p["alpha"], target))


m4 = Law(
    name="m4",
    params=("E", "E0", "A", "c", "alpha"),
    asymptotes=("E",),
    inputs=("x",),
    equation="|y - E| / |E0 - y|^alpha = A / x^c",
    reference="Alabdulmohsin et al. 2022, arXiv:2209.06640, M4: from chance level E0 to E, down or up",
    function=_m4,
    # At alpha = 0 the law has a corner where it meets E0, and an optimum there no gradient.
    bounds={"E": POSITIVE, "E0": ANY, "A": POSITIVE, "c": (0.0, 20.0), "alpha": (1e-3, 20.0)},
    coordinates={
        "E": LEVEL,
        "E0": Coordinate("linear", lambda p, m: exp(m["y"]), lambda p, m: p["E"]),
        "A": Coordinate(
            "log",
            # at a fixed coordinate E0 can run off to infinity and leave a power law: no curved valley
            lambda p, m: exp(p["c"] * m["x"] + m["y"] - p["alpha"] * log(abs(p["E0"] - p["E"]))),
            start=(-4.0, 4.0),
            limits=(-60.0, 60.0),
        ),
        "c": Coordinate("plain", start=(0.05, 2.0)),
        "alpha": Coordinate("plain", start=(0.0, 3.0)),
    },
)


BEYOND = (1e-3, 0.02, 0.2, 2.0)  # how far beyond the data limits are tried, in ranges of y


def broken(breaks: int, signed: bool = False) -> Law:
    """Smoothly broken law of Caballero et al. 2022 (arXiv:2210.14891) with `breaks` >= 1 breaks.

    Args:
      breaks: how many.
      signed: whether a, b and c0 may be negative (`bnsl<n>_signed`). With few points free signs let the curve turn
        towards a limit just beyond the data; `bnsl<n>` keeps them at zero or above, where it still may rise after a
        break.
    """
    i = range(1, breaks + 1)

    def log_shape(p: Mapping[str, Any], log_x: Any) -> Any:
        terms = (p[f"c{k}"] * p[f"f{k}"] * _logaddexp(0.0, (log_x - log(p[f"d{k}"])) / p[f"f{k}"]) for k in i)
        return -p["c0"] * log_x - sum(terms)

    def slopes(p: Mapping[str, Any], inputs: Mapping[str, Any], y: np.ndarray) -> dict[str, np.ndarray]:
        """c0, c1, ... given the breaks: ln |y - a| is linear in them, for limits a beyond the data on either side."""
        log_x, b = np.log(inputs["x"]), len(p["d1"])
        beyond = np.resize(BEYOND, (b, 1)) * np.ptp(y)
        size = np.where(np.arange(b)[:, None] // len(BEYOND) % 2 == 0, y - y.min(), y.max() - y) + beyond
        basis = [np.ones((b, len(y))), np.broadcast_to(-log_x, (b, len(y)))]
        basis += [-p[f"f{k}"] * np.logaddexp(0.0, (log_x - np.log(p[f"d{k}"])) / p[f"f{k}"]) for k in i]
        rows = np.stack(basis, axis=1)  # (b, 2 + breaks, n)
        weighted = rows * (size / (np.abs(y) + beyond))[:, None, :] ** 2
        gram, moment = weighted @ rows.transpose(0, 2, 1), weighted @ np.log(size)[:, :, None]
        scale = 1.0 / np.sqrt(np.maximum(np.einsum("bii->bi", gram), 1e-300))[:, :, None]
        gram = gram * scale * scale.transpose(0, 2, 1) + 1e-9 * np.eye(len(basis))
        solved = np.linalg.solve(gram, moment * scale) * scale
        return {f"c{k}": solved[:, 1 + k, 0] for k in range(breaks + 1)}

    each = [name for k in i for name in (f"c{k}", f"d{k}", f"f{k}")]
    # The slope changes by c at each break.
    bounds = {"a": ANY, "b": ANY, "c0": (-20.0, 20.0)} if signed else {"a": POSITIVE, "b": POSITIVE, "c0": (0.0, 20.0)}
    coordinates = {"c0": Coordinate("plain", start=(-0.3, 1.0))}
    for k in i:
        bounds |= {f"c{k}": (-50.0, 50.0), f"d{k}": POSITIVE, f"f{k}": POSITIVE}
        coordinates |= {
            f"c{k}": Coordinate("plain", start=(-1.0, 4.0)),
            f"d{k}": Coordinate("log", lambda p, m: exp(m["x"]), start=(0.0, 0.0), spans="x", limits=(-6.0, 6.0)),
            f"f{k}": Coordinate("log", start=(-4.0, 1.0), limits=(-7.0, 3.0)),
        }
    coordinates |= {"a": LEVEL, "b": Coordinate("linear", lambda p, m: exp(m["y"] - log_shape(p, m["x"])))}
    factors = " ".join(f"(1 + (x/d{k})^(1/f{k}))^(-c{k} f{k})" for k in i)
    return Law(
        name=f"bnsl{breaks}" + ("_signed" if signed else ""),
        params=("a", "b", "c0", *each),
        asymptotes=() if signed else ("a",),
        inputs=("x",),
        equation=f"y = a + b x^-c0 {factors}",
        reference="Caballero et al. 2022, arXiv:2210.14891, eq. 1" + ("" if signed else "; a, b, c0 >= 0"),
        function=lambda p, x: p["a"] + p["b"] * jnp.exp(log_shape(p, jnp.log(x["x"]))),
        bounds=bounds,
        coordinates=coordinates,
        initial_guess=slopes,
        canonical=_breaks_in_order,
    )


def _breaks_in_order(p: dict[str, float]) -> dict[str, float]:
    """Breaks may be exchanged without changing the law: numbered by where they are."""
    n = (len(p) - 3) // 3
    order = sorted(range(1, n + 1), key=lambda k: p[f"d{k}"])
    moved = {f"{s}{i}": p[f"{s}{k}"] for i, k in enumerate(order, 1) for s in "cdf"}
    return {**p, **moved}


saturating = Law(
    name="saturating",
    params=("E", "A", "alpha"),
    asymptotes=("E",),
    inputs=("x",),
    equation="y = E - A / x^alpha",
    reference="accuracy that rises to a ceiling E: the complement of power_offset (Henighan et al. 2020)",
    function=lambda p, x: p["E"] - p["A"] * power(x["x"], -p["alpha"]),
    bounds={"E": POSITIVE, "A": POSITIVE, "alpha": (1e-5, 20.0)},
    # Value and slope at the center of x: smooth through y = c + s ln x, which alpha -> 0 leaves.
    coordinates={
        "alpha": Coordinate("plain", start=(0.02, 2.0)),
        "A": Coordinate("linear", lambda p, m: exp(p["alpha"] * m["x"] + m["y"]) / p["alpha"]),
        "E": Coordinate("linear", lambda p, m: exp(m["y"]), lambda p, m: p["A"] * exp(-p["alpha"] * m["x"])),
    },
)

SUDDEN = 4.0  # widths of a sigmoid in a gap that it steps within
PLACES = 33  # at most, between which sudden changes are tried


def gaps(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints and widths of the gaps between the different values of x (n,), or some of them where they are many."""
    places = np.unique(x)
    places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), PLACES)).round().astype(int))]
    return 0.5 * (places[1:] + places[:-1]), np.diff(places)


def _sudden_step(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A step up or down within each gap between losses."""
    middle, width = gaps(inputs["loss"])
    return {"L0": np.tile(middle, 2), "k": np.concatenate([SUDDEN / width, -SUDDEN / width])}


sigmoid = Law(
    name="sigmoid",
    params=("floor", "gain", "k", "L0"),
    inputs=("loss",),
    equation="y = floor + gain / (1 + exp(k (loss - L0)))",
    reference="Bhagia et al. 2024, arXiv:2412.04403, step 2: task accuracy from loss; k < 0 for error rates",
    function=lambda p, x: p["floor"] + p["gain"] * jax.lax.logistic(-p["k"] * (x["loss"] - p["L0"])),
    bounds={"floor": ANY, "gain": POSITIVE, "k": ANY, "L0": ANY},
    coordinates={
        "floor": LEVEL,
        "gain": LEVEL,
        "k": Coordinate("plain", lambda p, m: exp(-m["loss"]), start=(-40.0, 40.0), limits=(-500.0, 500.0)),
        "L0": Coordinate("plain", lambda p, m: exp(m["loss"]), start=(0.2, 2.0), limits=(-20.0, 20.0)),
    },
    sudden=_sudden_step,
)

exponential = Law(
    name="exponential",
    params=("eps", "k", "gamma"),
    inputs=("loss",),
    equation="y = eps - k exp(-gamma loss)",
    reference="Gadre et al. 2024, arXiv:2403.08540, eq. 5: top-1 error from loss; k < 0 for accuracy",
    function=lambda p, x: p["eps"] - p["k"] * jnp.exp(-p["gamma"] * x["loss"]),
    bounds={"eps": ANY, "k": ANY, "gamma": POSITIVE},
    # Value and slope at the center of the losses: smooth through the straight line that gamma -> 0 leaves.
    coordinates={
        "gamma": Coordinate("log", lambda p, m: exp(-m["loss"]), start=(-4.0, 5.0), limits=(-9.0, 8.0)),
        "k": Coordinate("linear", lambda p, m: exp(m["y"] + p["gamma"] * exp(m["loss"]) - m["loss"]) / p["gamma"]),
        "eps": Coordinate("linear", lambda p, m: exp(m["y"]), lambda p, m: p["k"] * exp(-p["gamma"] * exp(m["loss"]))),
    },
)


LAWS = (power_law, power_offset, power_shifted, m4, saturating, sigmoid, exponential)
