"""What the user wants: one question, one file.

Fields are checked when they are set (pydantic dataclasses), so a wrong type is found before anything trains, in the
study's file (`scaling_jax.study_file`) as in `--set path.to.field=value`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from scaling_jax import rules
from scaling_jax.errors import UserError, describe_invalid
from scaling_jax.rules import Setting
from scaling_jax.settings import (
    Budgets,
    Depth,
    Fraction,
    Init,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Simulation,
    Size,
    ValidationSet,
    Width,
    part,
)
from scaling_jax.stored_family import StoredFamily, rebuilt

FAMILY_MEMBERS = ("name", "inputs", "check", "counts", "activation_bytes", "build")


@part
class Ladder:
    """The scales: one (width, depth) per rung.

    Attributes:
      widths: one per scale.
      depths: one per scale, or a single one for all; empty follows `aspect`.
      aspect: width / depth, used where `depths` is empty (depth is rounded, at least 1).
      seeds: how many of `Study.seeds` each scale trains, e.g. (4, 3, 2, 2), since small ones scatter most; empty: all.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1)]
    depths: tuple[Depth, ...] = ()
    aspect: PositiveFloat = 32.0
    seeds: tuple[PositiveInt, ...] = ()

    def scales(self) -> tuple[tuple[int, int], ...]:
        """(width, depth) of every rung, in the order given."""
        if len(self.depths) not in (0, 1, len(self.widths)):
            raise UserError(
                f"ladder.depths has {len(self.depths)} entries and ladder.widths has {len(self.widths)}: "
                "give one depth per width, one for all, or none to follow ladder.aspect"
            )
        depths = self.depths or tuple(max(1, round(w / self.aspect)) for w in self.widths)
        if len(depths) == 1:
            depths = depths * len(self.widths)
        scales = tuple(zip(self.widths, depths))
        if len(set(scales)) < len(scales):
            raise UserError(f"ladder: the same (width, depth) is listed twice in {scales}")
        return scales


@part
class Optimizer:
    """The optimizer; every combination of what is listed, with every seed, is trained at every scale and budget
    (or the good ones of them: `Study.sweep`).

    Rates, decays, batch_size, b2 and the schedule's warm-up and cool-down may be numbers, lists or rules in N and D
    (`scaling_jax.rules`). What differs by rate, decay, b2, warm-up, init scale or seed is a lane of one pack.

    Attributes:
      name: "adamw", "sgd", "muon" (AdamW on arrays other than hidden matrices), "lion", "schedule_free_adamw", or one
        added with `scaling_jax.models.optimizers.register`.
      options: further options of that optimizer by name, e.g. {"ns_steps": 6} for Muon.
      learning_rates: peak rates at `Parametrization.base_width`.
      weight_decays: decoupled, on matrices only; the decay per step is rate x decay whatever the width.
      batch_size: sequences (text) or samples per step; each value is a pack of its own.
      b2: decay of the second moment, for optimizers that have one.
      clip_norm: global-norm clip of the gradient; 0 switches it off.
      init_scales: factors on the initial standard deviations.
      spike_policy: "keep" applies every finite update; "skip" drops those whose gradient norm exceeds
        `spike_factor` x its running mean.
      max_loss_factor: a training loss above this multiple of ln(vocabulary) has exploded: the lane is diverged.
    """

    name: Annotated[str, Field(min_length=1)] = "adamw"
    options: dict[str, Any] = Field(default_factory=dict)
    learning_rates: Annotated[tuple[Setting, ...], rules.several("learning_rate")] = (0.02,)
    weight_decays: Annotated[tuple[Setting, ...], rules.several("weight_decay")] = (0.0,)
    init_scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    batch_size: Annotated[Setting | tuple[Setting, ...], rules.one_or_several("batch_size")] = 8
    b1: Fraction = 0.9
    b2: Annotated[Setting | tuple[Setting, ...], rules.one_or_several("b2")] = 0.95
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.9
    clip_norm: NonNegativeFloat = 1.0
    spike_policy: Literal["keep", "skip"] = "keep"
    spike_factor: PositiveFloat = 10.0
    max_loss_factor: PositiveFloat = 4.0


@part
class Parametrization:
    """How initialization and learning rates follow the scale; see `scaling_jax.models.parametrization`.

    Attributes:
      name: "mup" (one rate serves every width), "completep" (every width and depth) or "standard".
      base_width: the width at which the learning rates are given.
      base_depth: the same for the depth; only "completep" uses it.
    """

    name: Literal["mup", "standard", "completep"] = "mup"
    base_width: PositiveInt = 32
    base_depth: PositiveInt = 2


@part
class Schedule:
    """The learning rate over a run; `warmup_steps` and `cooldown_fraction` may be lists or rules (`scaling_jax.rules`).

    Attributes:
      name: "wsd" trains one constant-rate trunk per lane and branches a cool-down off it for every budget; "cosine"
        trains every budget on its own; "constant" reads the budgets off one trunk without cool-down.
      warmup_steps: linear warm-up from 0.
      cooldown_fraction: share of each WSD budget spent in its linear cool-down.
      final_fraction: rate at the end of a decay as a share of the peak; the last update of a decay over k steps is
        made at (1 - final) / k + final of the peak, never at exactly 0.
    """

    name: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: Annotated[Setting | tuple[Setting, ...], rules.one_or_several("warmup_steps")] = 100
    cooldown_fraction: Annotated[Setting | tuple[Setting, ...], rules.one_or_several("cooldown_fraction")] = 0.2
    final_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0


@part
class Data:
    """What is trained on.

    Attributes:
      source: a built-in name, a TFDS name (`lm1b`, `c4/en`, `cifar10`), or a path to a file or folder of one's own.
      data_dir: where TFDS finds prepared data; default TFDS_DATA_DIR or ~/tensorflow_datasets.
      split, validation_split: TFDS splits; a source without a validation split is divided by hash.
      tokenizer: "bytes", "bpe:VOCAB" (trained on the corpus), or a path to a tokenizer.json / sentencepiece model.
      context: tokens per sequence (text).
      unique_tokens: cap on distinct training tokens (samples for images), for data-constrained studies.
      augment: crop and flip images on the device.
    """

    source: Annotated[str, Field(min_length=1)] = "python_sources"
    data_dir: str | None = None
    split: str = "train"
    validation_split: str | None = None
    tokenizer: str = "bytes"
    context: Size = 128
    unique_tokens: PositiveInt | None = None
    augment: bool = True


@part
class Evaluation:
    """Attributes:
    examples: sequences (text) or samples of the fixed validation set that every run is scored on.
    batch_size: sequences or samples per evaluation batch.
    sets: further validation sets, scored when a study ends; they change no run.
    """

    examples: Annotated[int, Field(gt=0, le=10**9)] = 1024
    batch_size: Size = 64
    sets: tuple[ValidationSet, ...] = ()


@part
class HoldOut:
    """Which runs are kept out of a fit and predicted by it.

    Attributes:
      cut: those with at least this share of the largest run's FLOPs.
      flops: those with at least this many FLOPs; None follows `cut`.
    """

    cut: Annotated[float, Field(gt=0, le=1)] = 0.5
    flops: PositiveFloat | None = None


AUTO_LAW = "auto"  # of `Fit.law`


@part
class Fit:
    """How a law is fitted to the runs.

    Attributes:
      law: a name of `scaling_jax.fitting.laws`, or "auto": the one that extrapolates best below the hold-out cut.
      metric: the column of the results table that the law describes; accuracy and macro_f1 are fitted as 1 - value.
      also: further metrics that are fitted and drawn in the same way.
      params: the count of parameters that is N.
      objective: minimized, summed over runs; of ln(loss) but for "least_squares".
      huber_delta: where the Huber loss turns linear.
      overestimate_penalty: cost of runs below the law times this; 10 follows the lower edge of the losses.
      fixed: parameters that are held -> their values.
      inputs: inputs of the law besides N and D -> a number or arithmetic of N and D, on the frontier.
      bootstrap: resamples behind the intervals; 0 for none.
      resampling: pairs (or whole trunks), residuals, or signs of residuals (wild).
      level: of the intervals.
      seed: of starts and resamples.
      target_flops: where the frontier is read off besides the ladder's own range; empty picks 10x and 100x beyond it.
      isoflop_budgets: nominal budgets of IsoFLOP sweeps; empty finds them.
      price: dollars of a device-hour: the best model for the same dollars, too.
      max_memory: bytes of a device: the best model within them, too.
    """

    law: str = "chinchilla"
    metric: str = "loss"
    also: tuple[str, ...] = ()
    params: Literal["params_total", "params_non_embedding", "params_matmul"] = "params_matmul"
    objective: Literal["huber", "lad", "least_squares", "log_least_squares"] = "huber"
    huber_delta: PositiveFloat = 1e-3
    overestimate_penalty: PositiveFloat = 1.0
    fixed: dict[str, float] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    bootstrap: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    resampling: Literal["pairs", "residual", "wild"] = "pairs"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.9
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    target_flops: tuple[PositiveFloat, ...] = ()
    isoflop_budgets: tuple[PositiveFloat, ...] = ()
    price: PositiveFloat | None = None
    max_memory: PositiveFloat | None = None


@part
class Execution:
    """How the runs are computed; changes no loss by more than rounding.

    Attributes:
      compute_dtype: of activations; "auto" is bfloat16 on accelerators and float32 on CPU.
      layout: of the lanes inside a device; "auto" is "sequential" on CPU; on accelerators it times all of them once per
        shape where training takes a minute or more, and is "vmap" elsewhere.
      branches: cool-downs of a scale that one program trains side by side; pays where the layout is "vmap".
      mesh: sizes of the (run, data, fsdp) axes; None spreads the lanes over all devices.
      microbatches: the global batch as this many accumulated parts; "auto" makes parts on CPU that its caches hold.
      feed: "resident" keeps the data on the devices; "stream" reads batches ahead from the disk; "auto" by its size.
      scan_layers, remat: compile depth once; recompute activations in the backward pass. "auto" by depth and memory.
      attention: "auto" picks by backend.
      dispatch_seconds: aimed time of one dispatch, which holds as many steps as fit.
      checkpoint_seconds: time between checkpoints within a trunk or branch (their ends are always saved).
      keep_checkpoints: latest checkpoints kept per scale besides branch points and finals.
    """

    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    layout: Literal["auto", "vmap", "map", "sequential"] = "auto"
    branches: PositiveInt = 1
    mesh: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    microbatches: PositiveInt | Literal["auto"] = "auto"
    feed: Literal["auto", "resident", "stream"] = "auto"
    scan_layers: bool | Literal["auto"] = "auto"
    remat: bool | Literal["auto"] = "auto"
    attention: Literal["auto", "xla", "blocked", "cudnn", "splash"] = "auto"
    dispatch_seconds: PositiveFloat = 2.0
    checkpoint_seconds: PositiveFloat = 60.0
    keep_checkpoints: PositiveInt = 2

    @property
    def parts(self) -> int:
        """`microbatches`, and 1 while that is "auto"."""
        return 1 if self.microbatches == "auto" else self.microbatches


@part
class Study:
    """One question: a family, a ladder of scales, their budgets, and how they are trained, held out and fitted.

    Attributes:
      name: names the default working directory and the pictures.
      family: an instance of a family of `scaling_jax.models` (or of the user's own), its options set.
      sweep: "full" trains every combination of what is listed to every budget; "halving" stops weak ones early (see
        `scaling_jax.planning.rounds`). It changes no run.
      seeds: each is a lane; a seed fixes initialization and the order of the data.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    family: Any
    ladder: Ladder
    budgets: Budgets
    optimizer: Optimizer = Optimizer()
    parametrization: Parametrization = Parametrization()
    schedule: Schedule = Schedule()
    data: Data = Data()
    init: Init = Init()
    sweep: Literal["full", "halving"] = "full"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0,)
    evaluation: Evaluation = Evaluation()
    hold_out: HoldOut = HoldOut()
    fit: Fit = Fit()
    execution: Execution = Execution()
    simulation: Simulation = Simulation()

    @pydantic.field_validator("family")
    @classmethod
    def _check_family(cls, family: Any) -> Any:
        lacking = [name for name in FAMILY_MEMBERS if not hasattr(family, name)]
        if isinstance(family, type) or lacking or not dataclasses.is_dataclass(family):
            raise ValueError(
                "not a family: give an instance, such as scaling_jax.models.Transformer(); a family of your own is a "
                f"frozen dataclass with {', '.join(FAMILY_MEMBERS)}"
            )
        return family

    def seeds_of(self, width: int, depth: int) -> tuple[int, ...]:
        """The seeds that a scale trains; a UserError where `ladder.seeds` does not fit the study."""
        counts = self.ladder.seeds
        if not counts:
            return self.seeds
        scales = self.ladder.scales()
        if len(counts) != len(scales) or max(counts) > len(self.seeds):
            limits = (
                f"one number for each of the {len(scales)} scales, none above the {len(self.seeds)} listed in seeds"
            )
            raise UserError(f"ladder.seeds={counts}: give {limits}")
        own = dict(zip(scales, counts)).get((width, depth), min(counts))  # the fewest for `budgets.extra`
        return self.seeds[:own]

    def to_dict(self) -> dict[str, Any]:
        """The study as plain JSON types; the family's `name` is among its options."""
        out = dataclasses.asdict(self)
        options = self.family.options if isinstance(self.family, StoredFamily) else out["family"]
        out["family"] = {"name": self.family.name, **options}
        return json.loads(json.dumps(out))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, any_family: bool = False) -> Study:
        """The study that `to_dict` describes; fields that are left out have their defaults.

        Args:
          content: nested dicts of plain JSON types.
          any_family: a family that is not registered here becomes a `StoredFamily`, which cannot be trained.

        Raises:
          UserError: an unknown field, a value of the wrong type, or a family that is not registered.
        """
        family = content.get("family") if isinstance(content, Mapping) else None
        if not isinstance(family, Mapping) or "name" not in family:
            raise UserError("study: give name, family (with its name), ladder and budgets, as `Study.to_dict` does")
        try:
            content = {**content, "family": rebuilt(dict(family), any_family)}
            return pydantic.TypeAdapter(cls).validate_python(content)
        except pydantic.ValidationError as error:
            raise UserError(f"study: {describe_invalid(error)}") from error
        except KeyError as error:
            raise UserError(f"study: {' '.join(' '.join(map(str, error.args)).split())}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"study: {type(error).__name__}: {' '.join(str(error).split())}") from error

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Study:
        """The study that `to_json` describes.

        Raises:
          UserError: not JSON, or as `from_dict`.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"study: not JSON ({' '.join(str(error).split())[:200]})") from error
        return cls.from_dict(content)


def content_hash(value: Any) -> str:
    """First 16 hex digits of the sha256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
