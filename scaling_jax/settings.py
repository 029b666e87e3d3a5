"""Types of a study's fields, and the parts of a study that say what comes beside and after training."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

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


@dataclass(frozen=True, config=CONFIG, kw_only=True)
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


@dataclass(frozen=True, config=CONFIG, kw_only=True)
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
