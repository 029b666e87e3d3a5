"""Types of a study's fields, and the parts of a study that say what comes beside and after training."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from pydantic import Field

from scaling_jax.errors import one_line

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(gt=0, le=2**20)]
Depth = Annotated[int, Field(gt=0, le=2**12)]
# Far beyond any machine, so that a slip of the keyboard is found here and not as a hang or an overflow.
Size = Annotated[int, Field(gt=0, le=10**7)]
Tokens = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
Flops = Annotated[float, Field(gt=0, le=1e36, allow_inf_nan=False)]
CONFIG = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field, Field))
def part(cls: type[T]) -> type[T]:
    """A part of a study: a frozen dataclass, checked where it is made."""
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, config=CONFIG, kw_only=True)
    return one_line(made)


@part
class ValidationSet:
    """A further set that finished runs are scored on, in the tokens of the study; see `Data` for the fields.

    Attributes:
      name: the ending of its columns: `loss_<name>`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=40)]
    source: Annotated[str, Field(min_length=1)]
    data_dir: str | None = None
    split: str = "train"
    validation_split: str | None = None


@part
class Start:
    """The trained run that the lanes of one scale and seed start from.

    Attributes:
      scale: name of the (width, depth).
      seed: of the lanes.
      run_id: identity of the trained run.
      tokens: that it was trained on, those of its own start included.
      fresh: names of the arrays that are made anew, since other data decides their shape or meaning.
    """

    scale: str
    seed: int
    run_id: str
    tokens: float
    fresh: tuple[str, ...] = ()


@part
class Init:
    """Where training starts: at fresh parameters, or at the trained models of another study (fine-tuning).

    Example:
      dataclasses.replace(study, init=sj.Init(from_workdir="runs/english"))

    Attributes:
      from_workdir: folder (or gs:// path) of a study of the same family and scales; None starts fresh.
      tokens: of its runs those of this budget, within 1%; None takes the largest of every scale.
      starts: the run that every scale and seed starts from; `plan` and `run` fill it in.
    """

    from_workdir: Annotated[str, Field(min_length=1)] | None = None
    tokens: Tokens | None = None
    starts: tuple[Start, ...] = ()

    def start_of(self, scale: str, seed: int) -> Start | None:
        """Where the lanes of a scale and seed start; None for fresh parameters."""
        return next((start for start in self.starts if (start.scale, start.seed) == (scale, seed)), None)


@part
class Simulation:
    """The world of `engine="simulate"`, which draws losses instead of training; see `scaling_jax.simulation`.

    Attributes:
      law: a name of `scaling_jax.fitting.published`, or of `scaling_jax.fitting.laws` with all its `params`.
      params: coefficients of the law; those given replace published ones.
      trunk_noise: standard deviation of ln loss between seeds, shared by all branches of a trunk.
      run_noise: further standard deviation of ln loss of each run.
      best_rate: the learning rate without penalty; None is the (geometric) middle of those of the study.
      rate_curvature: the loss rises by this share times the square of ln(rate / best_rate).
      faults: names of `scaling_jax.simulation.FAULTS`.
      seed: of noise and faults.
    """

    law: Annotated[str, Field(min_length=1)] = "besiroglu2024"
    params: dict[str, float] = Field(default_factory=dict)
    trunk_noise: NonNegativeFloat = 0.003
    run_noise: NonNegativeFloat = 0.0015
    best_rate: PositiveFloat | None = None
    rate_curvature: NonNegativeFloat = 0.01
    faults: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


@part
class Budgets:
    """How long each scale trains; the union of all that is given, each rounded to whole steps.

    Attributes:
      tokens: tokens (text) or samples (classifiers).
      tokens_per_param: multiples of the scale's non-embedding parameters.
      flops: training FLOPs, exact accounting; the points of one value over the scales are an IsoFLOP curve.
      extra: further single runs, (width, depth, tokens) each, of scales in the ladder or not.
      ratio_range: (lowest, highest) tokens per non-embedding parameter that a `flops` budget may ask of a scale;
        points outside are not planned.
      max_tokens: no `flops` or `tokens_per_param` budget beyond this many tokens is planned.
      isoflop_sizes: how many scales of the ladder train to each of `flops`, spread around the size that a guess
        takes for the best; 0 takes all within `ratio_range`.
      isoflop_ratio: the guess: tokens per non-embedding parameter at the best size.
      isoflop_span: the outermost sizes are the guess divided and multiplied by this.
      device_hours: all budgets are multiplied by one factor, so that training takes this long on one device. It needs
        `device_flops`, so that the study is the same on every machine.
      device_flops: FLOP/s that one device sustains; `scaling-jax plan` says what it assumes of this machine.
      memory_gib: scales whose training would take more than this on one device are left out.
      min_steps: a run of fewer optimizer steps is an error: it would be off any law.
    """

    tokens: tuple[Tokens, ...] = ()
    tokens_per_param: tuple[Tokens, ...] = ()
    flops: tuple[Flops, ...] = ()
    extra: tuple[tuple[Width, Depth, Tokens], ...] = ()
    ratio_range: tuple[NonNegativeFloat, PositiveFloat] = (0.0, 1e12)
    max_tokens: PositiveFloat = 1e15
    isoflop_sizes: Annotated[int, Field(ge=0, le=1000)] = 0
    isoflop_ratio: PositiveFloat = 20.0
    isoflop_span: Annotated[float, Field(ge=1, le=1e6)] = 4.0
    device_hours: PositiveFloat | None = None
    device_flops: PositiveFloat | None = None
    memory_gib: PositiveFloat | None = None
    min_steps: PositiveInt = 100

    @pydantic.field_validator("ratio_range")
    @classmethod
    def _check_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the lowest ratio comes first")
        return value

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> Budgets:
        if (self.device_hours is None) != (self.device_flops is None):
            given, lacking = ("device_hours", "device_flops") if self.device_hours else ("device_flops", "device_hours")
            raise ValueError(f"budgets.{given} needs budgets.{lacking}")
        if self.isoflop_sizes and not self.flops:
            raise ValueError("budgets.isoflop_sizes needs budgets.flops: the compute of each IsoFLOP curve")
        return self
