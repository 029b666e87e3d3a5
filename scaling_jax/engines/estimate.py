"""What a plan takes: memory, time and money, on this machine or on chips that one could rent."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import jax

from scaling_jax import text
from scaling_jax.engines import speeds
from scaling_jax.live import clock
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack, Run, expected_flops, memory_bytes
from scaling_jax.planning.rounds import LEAST_STEPS, WARMUPS
from scaling_jax.settings import Start
from scaling_jax.study import Study
from scaling_jax.training import hardware
from scaling_jax.training.scale import mesh_shape

# Share of the peak that a plan assumes before anything was measured: see benchmarks/.
ASSUMED_SHARE = {"cpu": 0.3, "gpu": 0.4, "tpu": 0.4}
# Seconds of compiling one pack's program for the first time (a cached one takes a tenth), and of everything around the
# training: imports, data from the cache, the fit with its bootstrap, the report.
COMPILE_SECONDS = {"cpu": 7.0, "gpu": 20.0, "tpu": 30.0}
AROUND_SECONDS = 40.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One scale and budget of a plan.

    Attributes:
      scale: name of the pack: of the scale, with a number where a workdir has grown.
      width, depth: of the model.
      params: N, as `fit.params` of the study counts it.
      tokens: D, tokens or samples.
      flops: exact training FLOPs of one run.
      steps: optimizer steps of one run.
      runs: lanes that train to this budget.
      memory_bytes: estimated peak of one device.
      train_flops: what this budget adds to the FLOPs that the pack trains, all lanes together.
    """

    scale: str
    width: int
    depth: int
    params: int
    tokens: int
    flops: float
    steps: int
    runs: int
    memory_bytes: int
    train_flops: float


def rows(study: Study, packs: Sequence[Pack], spec: Spec) -> list[Row]:
    """One row per scale and budget."""
    out = []
    for pack in packs:
        mesh = mesh_shape(pack, study, jax.device_count())
        memory = memory_bytes(study, pack, spec, mesh, hardware.resolve_pack(study, pack, spec, mesh))
        by_budget: dict[int, list[Run]] = {}
        for run in pack.runs:
            by_budget.setdefault(run.budget, []).append(run)
        for budget, (steps, added) in enumerate(zip(pack.budgets, _added_steps(pack))):
            runs = by_budget[budget]
            run = runs[0]
            out.append(
                Row(
                    scale=pack.name,
                    width=pack.width,
                    depth=pack.depth,
                    params=getattr(pack.counts, study.fit.params),
                    tokens=run.tokens,
                    flops=run.flops,
                    steps=steps,
                    runs=len(runs),
                    memory_bytes=memory,
                    train_flops=float(added * pack.tokens_per_step * pack.counts.flops_per_token),
                )
            )
    return out


def speed(family: str = "") -> tuple[Callable[[int], float], str]:
    """(FLOP/s that a plan assumes of this process's devices by width, how it is known).

    Args:
      family: name of the one that is trained: earlier runs of it on this kind of machine say most.
    """
    report = speeds.load()
    if report is not None and speeds.flops_at(report, 1, family) is not None:
        ran = family in report.get("runs", {})
        known = (
            f"the speed of earlier runs of {family} here" if ran else "the speeds that scaling-jax bench measured here"
        )
        return lambda width: speeds.flops_at(report, width, family) or 0.0, known
    peak, source = hardware.peak_flops()
    share = ASSUMED_SHARE.get(jax.default_backend(), 0.3)
    return lambda width: share * peak, (
        f"{100 * share:.0f}% of {text.short(peak)} FLOP/s ({source}; scaling-jax bench measures more than that)"
    )


def overhead_seconds(packs: Sequence[Pack], family: str) -> float:
    """Seconds that a run takes beside training: programs compile one after another on one core for each device."""
    side_by_side = max(min(len(packs), jax.device_count()), 1) if jax.default_backend() == "cpu" else 1
    usual, report = COMPILE_SECONDS.get(jax.default_backend(), 20.0), speeds.load() or {}
    each = [speeds.compile_seconds(report, pack.width, family) for pack in packs]
    return AROUND_SECONDS + sum(usual if seconds is None else seconds for seconds in each) / side_by_side


def plan_text(study: Study, packs: Sequence[Pack], spec: Spec) -> str:
    """A table with one row per scale and budget, and the totals."""
    at, source = speed(study.family.name)
    header = ["scale", "width", "depth", "N", "D", "D/N", "C", "steps", "memory", "time"]
    cells = [
        [
            row.scale, str(row.width), str(row.depth), text.short(row.params), text.short(row.tokens),
            f"{row.tokens / row.params:.4g}", f"{row.flops:.3g}", str(row.steps), text.short_bytes(row.memory_bytes),
            clock(row.train_flops / at(row.width)).strip(),
        ]
        for row in rows(study, packs, spec)
    ]  # fmt: skip
    total = sum(pack.trained_flops for pack in packs)
    seconds = sum(pack.trained_flops / at(pack.width) for pack in packs)
    count = sum(len(pack.runs) for pack in packs)
    lanes = sorted({len(pack.lanes) for pack in packs})
    lanes_each = text.plural(lanes[0], "lane") if len(lanes) == 1 else f"{lanes[0]} to {lanes[-1]} lanes"
    separate = sum(run.flops for pack in packs for run in pack.runs)
    less = f" ({separate / total:.2f}x less than separate runs)" if separate > 1.005 * total else ""
    cooldowns = max(count for pack in packs for count in collections.Counter(pack.budgets).values())
    lanes_each += " each" + (f" with {cooldowns} cool-downs to a budget" if cooldowns > 1 else "")
    starts = [lane.start for pack in packs for lane in pack.lanes if lane.start is not None]
    return "\n".join(
        [
            text.table(header, cells, indent=""),
            f"{text.plural(count, 'run')} in {text.plural(len(packs), 'pack')}, {lanes_each}; "
            f"N is {study.fit.params}; C is exact, attention included.",
            *([_start_text(starts)] if starts else []),
            f"{total:.3g} FLOPs to train{less}, about "
            f"{clock(seconds).strip()} at {source}; with start, compilation and report about "
            f"{clock(seconds + overhead_seconds(packs, study.family.name)).strip()}.",
            *([_rounds_text(packs, total, seconds)] if study.sweep == "halving" else []),
        ]
    )


def _rounds_text(packs: Sequence[Pack], total: float, seconds: float) -> str:
    """What halving is expected to leave of the FLOPs and seconds of the whole sweep."""
    share = expected_flops(packs) / total
    if share > 0.995:
        return (
            "sweep=halving is expected to stop nothing: a quarter of the shortest budget has fewer than "
            f"{LEAST_STEPS} steps or {WARMUPS:g} warm-ups, and no budget follows; give longer ones, or several."
        )
    return (
        f"sweep=halving is expected to train {share * total:.3g} of these FLOPs ({share:.0%}, about "
        f"{clock(seconds * share).strip()}): weak combinations stop early."
    )


def _start_text(starts: Sequence[Start]) -> str:
    """What the lanes start from."""
    seen, fresh = sorted({start.tokens for start in starts}), list(dict.fromkeys(n for s in starts for n in s.fresh))
    span = text.short(seen[0]) if len(seen) == 1 else f"{text.short(seen[0])} to {text.short(seen[-1])}"
    count = text.plural(len({start.run_id for start in starts}), "trained run")
    anew = f"; made anew: {', '.join(fresh)}" if fresh else ""
    return f"They start from {count} of {span} tokens, which D and C do not count (pretrain_tokens){anew}."


def cost_text(packs: Sequence[Pack], chip: str, chips: int, price: float | None) -> str:
    """One line: time of the plan on so many chips, and dollars when the price of a chip hour is given.

    Raises:
      UserError: a chip whose peak is not known.
    """
    name = hardware.known_chip(chip)
    share = ASSUMED_SHARE["tpu" if name.startswith("TPU") else "gpu"]
    seconds = sum(pack.trained_flops for pack in packs) / (share * hardware.KNOWN_PEAKS[name] * chips)
    line = f"On {chips} x {name} at {100 * share:.0f}% of peak: about {clock(seconds).strip()}"
    if price is not None:
        line += f", ${price * chips * seconds / 3600:,.2f} at ${price:g} per chip-hour"
    return f"{line}; start-up, compilation and preemptions are not included."


def _added_steps(pack: Pack) -> list[int]:
    """Steps that each budget adds to those before it, all lanes together."""
    out, since = [], 0
    for phase in pack.phases:
        since += (phase.stop - phase.start) * len(phase.lanes)
        if phase.kind == "branch":
            out.append(since)
            since = 0
    return out
