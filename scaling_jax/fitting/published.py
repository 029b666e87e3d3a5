"""`fitting.published`: coefficients of published fits, to predict and plan from, without data or intervals.

    from scaling_jax import fitting
    fit = fitting.published["besiroglu2024"]
    fit.frontier(1e21).N, fit.predict({"N": 7e9, "D": 1.4e11})
    print(fitting.published.source["besiroglu2024"])

Losses of different papers are on different data and tokenizers and cannot be compared. N is counted in different ways,
which alone moves the optimum (Pearce & Song 2024, arXiv:2406.12907; Porian et al. 2024, arXiv:2406.19146).
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.fit import Fit
from scaling_jax.fitting.laws import laws

TOTAL = "N: all parameters, embeddings included"
NON_EMBEDDING = "N: non-embedding parameters"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a published fit comes from.

    Attributes:
      law: name of the equation in `fitting.laws`.
      params: its coefficients in natural units.
      paper: authors, year and identifier.
      where: the equation or table the numbers are printed in.
      convention: what N, D and y are.
      caveats: what to know before using it.
    """

    law: str
    params: Mapping[str, float]
    paper: str
    where: str
    convention: str
    caveats: str = ""

    def __str__(self) -> str:
        numbers = ", ".join(f"{k} {v:.6g}" for k, v in self.params.items())
        lines = [laws[self.law].equation, numbers, f"{self.paper}, {self.where}", self.convention, self.caveats]
        return "\n".join(line for line in lines if line)


def _gadre(E: float, a: float, b: float, eta: float) -> Source:
    """L = E + (a M^eta + b M^-eta) C^-eta with M = D / N and C = 6 N D, which is one law in N and D."""
    return Source(
        "chinchilla_tied", {"E": E, "A": a / 6.0**eta, "B": b / 6.0**eta, "alpha": 2.0 * eta}, _GADRE,
        "appendix, fitted coefficients", f"{TOTAL}; D: tokens; y: loss on C4, nats per token; C = 6ND",
        "Printed as E + (a M^eta + b M^-eta) C^-eta, M = D / N, with eta in three digits. Fitted from 11M to 1.4B "
        "parameters; the authors' 79M runs are within 1% of it, their 7B runs within 4%.",
    )  # fmt: skip


def _chinchilla(E: float, A: float, B: float, alpha: float, beta: float) -> dict[str, float]:
    return {"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta}


_GADRE = "Gadre et al. 2024, arXiv:2403.08540"
_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556"
_BESIROGLU = "Besiroglu et al. 2024, arXiv:2404.10102"
_DEEPSEEK = "DeepSeek-AI 2024 (DeepSeek LLM), arXiv:2401.02954"
_STEP_LAW = "Li et al. 2025 (Step Law), arXiv:2503.04715"
_MASSIVETEXT = f"{TOTAL}; y: loss on MassiveText, nats per token; C = 6ND"
_DEEPSEEK_COMPUTE = "x: compute C = M D, M non-embedding FLOPs per token with attention"
_MULTI_STEP = "AdamW, multi-step schedule; fitted from 1e17 to 2e19 FLOPs."
_STEP = "N: parameters without the vocabulary; D: tokens"

SOURCES = MappingProxyType(
    {
        "kaplan2020": Source(
            "kaplan",
            {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
            "Kaplan et al. 2020, arXiv:2001.08361",
            "eq. 1.5 and table 2",
            f"{NON_EMBEDDING}; D: tokens of WebText2; y: loss, nats per token",
            "Of models trained until they stop improving on D tokens. The frontier of this equation has a = .575; the "
            "paper's own a = .73 comes from other fits, explained by the head's compute, the warmup and untuned "
            "optimizers (Porian et al. 2024).",
        ),
        "hoffmann2022": Source(
            "chinchilla", _chinchilla(1.69, 406.4, 410.7, 0.34, 0.28), _HOFFMANN, "eq. 10", _MASSIVETEXT,
            "As printed. Rounding alone quadruples the misfit, and the optimizer had stopped early: a = .45 where "
            "the paper's other approaches give .49 to .50. Prefer besiroglu2024.",
        ),
        "hoffmann2022_unrounded": Source(
            "chinchilla",
            _chinchilla(math.exp(0.5267228), math.exp(6.0073404), math.exp(6.0179186), 0.33917084, 0.2849083),
            _HOFFMANN, "source of the paper", _MASSIVETEXT,
            "The same fit with all its digits; the optimizer had still stopped early.",
        ),
        "besiroglu2024": Source(
            "chinchilla", _chinchilla(1.81686, 482.00572, 2085.4342, 0.34781, 0.36585), _BESIROGLU, "table 1",
            _MASSIVETEXT,
            "Refit of 240 points read off Hoffmann et al.'s figure 4. Least absolute deviations in effect: the "
            "threshold of its likelihood is 4.7e-9.",
        ),
        "besiroglu2024_huber": Source(
            "chinchilla", _chinchilla(1.81721, 477.82, 2142.5, 0.34731, 0.367152), _BESIROGLU, "the published notebook",
            _MASSIVETEXT, "The same points under the Huber cost of Hoffmann et al., delta 1e-3, summed.",
        ),
        "muennighoff2023": Source(
            "data_constrained",
            {"E": math.exp(0.6254804), "A": math.exp(6.255414), "B": math.exp(7.3049974),
             "alpha": 0.3526596, "beta": 0.3526596, "R_D*": 15.387756, "R_N*": 5.309743},
            "Muennighoff et al. 2023, arXiv:2305.16264", "appendix A, eq. 17",
            f"{TOTAL}; D: tokens with repeats; U: unique tokens of C4; y: loss, nats per token",
            "Fitted to models of up to 8.7B parameters.",
        ),
        "gadre2024_c4": _gadre(1.51, 141, 190, 0.121),
        "gadre2024_redpajama": _gadre(1.84, 212, 367, 0.136),
        "gadre2024_refinedweb": _gadre(1.73, 157, 246, 0.127),
        "llama3_tokens": Source(
            "power", {"A": 0.29, "alpha": -0.53}, "Llama team 2024 (Llama 3), arXiv:2407.21783", "section 3.2.1",
            "x: compute C in FLOPs; y: the optimal number of tokens",
            "No law of the loss is printed. Both numbers are rounded: at 3.8e25 they give 10.5T tokens, the paper "
            "16.55T.",
        ),
        "deepseek2024_tokens": Source(
            "power", {"A": 5.8316, "alpha": -0.4757}, _DEEPSEEK, "eq. 4",
            f"{_DEEPSEEK_COMPUTE}; y: the optimal number of tokens", "Fitted from 1e17 to 3e20 FLOPs.",
        ),
        "deepseek2024_scale": Source(
            "power", {"A": 0.1715, "alpha": -0.5243}, _DEEPSEEK, "eq. 4",
            f"{_DEEPSEEK_COMPUTE}; y: the optimal M, FLOPs per token (about 6N)", "Fitted from 1e17 to 3e20 FLOPs.",
        ),
        "deepseek2024_lr": Source(
            "power", {"A": 0.3118, "alpha": 0.125}, _DEEPSEEK, "eq. 1",
            f"{_DEEPSEEK_COMPUTE}; y: peak learning rate", _MULTI_STEP,
        ),
        "deepseek2024_batch": Source(
            "power", {"A": 0.292, "alpha": -0.3271}, _DEEPSEEK, "eq. 1", f"{_DEEPSEEK_COMPUTE}; y: batch in tokens",
            _MULTI_STEP,
        ),
        "steplaw2025_lr": Source(
            "lr_optimum", {"A": 1.79, "alpha": -0.713, "beta": 0.307}, _STEP_LAW, "eq. 1",
            f"{_STEP}; y: peak learning rate", "AdamW, cosine schedule to a fixed final rate of 1e-5.",
        ),
        "steplaw2025_batch": Source(
            "batch_optimum", {"A": 0.58, "alpha": 0.0, "beta": 0.571}, _STEP_LAW, "eq. 1",
            f"{_STEP}; y: batch in tokens", "AdamW, cosine schedule to a fixed final rate of 1e-5.",
        ),
        "luo2025_code": Source(
            "farseer",
            {"a1": -0.0209, "b1": -0.1826, "alpha": 0.1943, "a2": 62.8936, "b2": -14.0414, "beta": -0.0614,
             "a3": -0.0047, "b3": -0.8188, "gamma": 0.239},
            "Luo et al. 2025, arXiv:2510.08702", "the Farseer law of code",
            "N: parameters; D: tokens of code; y: loss on code",
            "117 runs from .2B to 3.8B parameters and 2B to 128B tokens. Its floor tends to zero with N.",
        ),
    }
)  # fmt: skip


class UnknownFit(LawError, KeyError):
    """No published fit has that name; the message lists the nearest."""

    __str__ = ValueError.__str__


class Published(Mapping[str, Fit]):
    """Published fits by name; `source` tells where each comes from and how N is counted.

    Example:
      >>> from scaling_jax import fitting
      >>> round(fitting.published["besiroglu2024"].exponents["a"], 3)
      0.513
    """

    source: Mapping[str, Source] = SOURCES

    def __getitem__(self, name: str) -> Fit:
        source = SOURCES.get(name) if isinstance(name, str) else None
        if source is None:
            near = difflib.get_close_matches(str(name).lower(), list(SOURCES), n=3, cutoff=0.3)
            hint = f"Nearest: {', '.join(near)}. " if near else ""
            raise UnknownFit(f"No published fit named {name!r}. {hint}All: {', '.join(SOURCES)}.")
        return Fit.from_params(source.law, source.params)

    def __iter__(self) -> Iterator[str]:
        return iter(SOURCES)

    def __len__(self) -> int:
        return len(SOURCES)

    def __repr__(self) -> str:
        return "\n".join(f"{k:<24}{s.law:<18}{s.paper}, {s.where}" for k, s in SOURCES.items())


published = Published()
