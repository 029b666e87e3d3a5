"""Measures what a machine does: matmuls, one run, many lanes, attention; see `scaling-jax bench`."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling_jax import text
from scaling_jax.data.dataset import Dataset
from scaling_jax.models import Scaling, Transformer, attention
from scaling_jax.models.family import Spec
from scaling_jax.planning import NO_DECAY, Pack, Phase, make_plan, step_bytes
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Study
from scaling_jax.training import hardware
from scaling_jax.training.feed import ResidentFeed, device_memory
from scaling_jax.training.layout import LAYOUTS
from scaling_jax.training.program import LaneProgram, make_mesh

VOCAB = 256
PAYS = 1.05  # twice the lanes must give this much more
MEMORY_SHARE = 0.8  # of a device's memory that a program may be planned to take
LONGEST_STEP = 3.0  # seconds: what takes longer is left out


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
      seconds: to spend in all; what is left then is skipped, and said so.
      case_seconds: of one measurement, after its compilation.
      single_widths: of the runs that train alone.
      lane_widths: of the runs that share a device.
      max_lanes: the most lanes of a device.
      context, batch_size: of the runs; on accelerators those that train alone take batches of 16 x 1024.
      matmul: size of the square matrices.
      small: keep to these shapes on accelerators, too.
    """

    seconds: float = 300.0
    case_seconds: float = 0.5
    single_widths: Sequence[int] = (128, 256, 512, 1024, 2048)
    lane_widths: Sequence[int] = (32, 64, 128, 256, 512)
    max_lanes: int = 64
    context: int = 128
    batch_size: int = 8
    matmul: int = 4096
    small: bool = False


QUICK = Settings(60.0, 0.05, (32,), (16, 32), 2, 32, 4, 256, small=True)


def measure(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the whole benchmark on this process's devices.

    Args:
      settings: what to measure.
      say: called with a line about each measurement.

    Returns:
      device, backend, num_devices; matmul: FLOP/s of all devices by dtype; single, lanes: rows of width, depth, lanes
      (per device), layout, tokens_per_s, flops_per_s, share (of the peak); attention: rows; recommended: rows of width,
      lanes, layout, gain; skipped: what was left out, and why; seconds.
    """
    return _Bench(settings, say).run()


class _Bench:
    def __init__(self, settings: Settings, say: Callable[[str], None]):
        self.settings, self.say, self.begin = settings, say, time.monotonic()
        self.devices, self.backend = jax.devices(), jax.default_backend()
        self.skipped: list[str] = []
        self.peak = math.nan

    def run(self) -> dict[str, Any]:
        s = self.settings
        matmul = {name: self._matmul(name) for name in ("float32", "bfloat16", "float16")}
        training = matmul["float32" if self.backend == "cpu" else "bfloat16"]
        self.peak = training if self.backend == "cpu" else max(training, hardware.peak_flops()[0])
        big = (s.context, s.batch_size) if self.backend == "cpu" or s.small else (1024, 16)
        lanes = [row for width in s.lane_widths for row in self._lanes(width)]
        kernels = self._attention()
        single = [row for width in s.single_widths if (row := self._case(width, 1, "map", *big))]
        return {
            "device": hardware.describe(),
            "backend": self.backend,
            "num_devices": len(self.devices),
            "jax": jax.__version__,
            "matmul": matmul,
            "single": single,
            "lanes": lanes,
            "attention": kernels,
            "recommended": recommended(lanes),
            "skipped": self.skipped,
            "seconds": round(time.monotonic() - self.begin, 1),
        }

    def _late(self, what: str) -> bool:
        """True, and noted, when the time is over."""
        if time.monotonic() - self.begin < self.settings.seconds:
            return False
        self.skipped.append(f"{what}: no time left")
        return True

    def _matmul(self, dtype: str) -> float:
        """FLOP/s of all devices; on CPU one call uses every core."""
        self.say(f"matmul, {dtype}")
        size = min(self.settings.matmul, 1024) if self.backend == "cpu" else self.settings.matmul
        a = jnp.ones((size, size), dtype)
        product = jax.jit(lambda x: x @ x).lower(a).compile()
        seconds = _best_seconds(lambda: product(a), self.settings.case_seconds)
        return 2 * size**3 / seconds * (1 if self.backend == "cpu" else len(self.devices))

    def _lanes(self, width: int) -> list[dict[str, Any]]:
        """More and more lanes of a width, while they pay and fit."""
        rows: list[dict[str, Any]] = []
        count, best = 1, 0.0
        while count <= self.settings.max_lanes:
            layouts = LAYOUTS if count > 1 else ("map",)  # one lane is the same program in all of them
            found = [self._case(width, count, layout) for layout in layouts]
            rows += [row for row in found if row]
            reached = max((row["tokens_per_s"] for row in found if row), default=0.0)
            if not reached or reached < PAYS * best:  # where few lanes take too long, more do as well
                break
            count, best = 2 * count, reached
        return rows

    def _case(
        self, width: int, lanes: int, layout: str, context: int | None = None, batch_size: int | None = None
    ) -> dict[str, Any] | None:
        """One row: so many lanes on every device; None where they do not fit, or the time is over."""
        what = f"width {width}, {text.plural(lanes, 'lane')}, {layout}"
        context, batch_size = context or self.settings.context, batch_size or self.settings.batch_size
        study, pack, spec = _study(width, lanes * len(self.devices), context, batch_size)
        mesh = (len(self.devices), 1, 1)
        execution = dataclasses.replace(hardware.resolve_pack(study, pack, spec, mesh), layout=layout)
        flops = pack.tokens_per_step * pack.counts.flops_per_token * len(pack.lanes)
        if step_bytes(study, pack, spec, mesh, execution) > MEMORY_SHARE * device_memory():
            self.skipped.append(f"{what}: does not fit in memory")
        elif flops / (0.2 * self.peak) > LONGEST_STEP:
            self.skipped.append(f"{what}: a step takes seconds")
        elif not self._late(what):
            self.say(what)
            program = _program(study, pack, spec, execution, mesh, self.devices)
            seconds = _step_seconds(program, self.settings.case_seconds)
            return {
                "width": width,
                "depth": pack.depth,
                "lanes": lanes,
                "layout": layout,
                "tokens_per_s": round(pack.tokens_per_step * len(pack.lanes) / seconds),
                "flops_per_s": flops / seconds,
                "share": round(flops / seconds / self.peak, 4),
            }
        return None

    def _attention(self) -> list[dict[str, Any]]:
        """Forward and backward of every kernel that this backend has, at a few contexts."""
        kernels = ["xla", "blocked"] + {"gpu": ["cudnn"], "tpu": ["splash"]}.get(self.backend, [])
        dtype, head_dim = ("float32", 32) if self.backend == "cpu" else ("bfloat16", 128)
        contexts = (self.settings.context, 4 * self.settings.context)
        contexts = contexts if self.backend == "cpu" or self.settings.small else (256, 1024, 4096)
        rows = []
        for context in contexts:
            shape = (max(1, 2048 // context), context, 4, head_dim)
            for kernel in kernels:
                what = f"attention {kernel}, context {context}"
                if self._late(what):
                    continue
                self.say(what)
                try:
                    seconds = _attention_seconds(kernel, shape, dtype, self.settings.case_seconds)
                except Exception as error:  # whatever a kernel says when it cannot run here
                    self.skipped.append(f"{what}: {' '.join(str(error).split())[:120]}")
                else:
                    rows.append({"kernel": kernel, "context": context, "head_dim": head_dim, "seconds": seconds})
        return rows


def recommended(lanes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By width: the fewest lanes of a device within 5% of the best, their layout, and what they gain over one.

    Args:
      lanes: rows of `measure`.
    """
    out = []
    for width in sorted({row["width"] for row in lanes}):
        rows = [row for row in lanes if row["width"] == width]
        best = max(row["tokens_per_s"] for row in rows)
        enough = [row for row in rows if PAYS * row["tokens_per_s"] >= best]
        row = min(enough, key=lambda row: (row["lanes"], -row["tokens_per_s"]))
        one = next(row["tokens_per_s"] for row in rows if row["lanes"] == 1)
        gain = round(row["tokens_per_s"] / one, 2)
        out.append({"width": width, "lanes": row["lanes"], "layout": row["layout"], "gain": gain})
    return out


def report_text(report: dict[str, Any]) -> str:
    """A report of `measure` as tables."""
    peaks = [[name, f"{flops / 1e12:.3g}"] for name, flops in report["matmul"].items()]
    rows = [["one a device", row] for row in report["single"]] + [["lanes", row] for row in report["lanes"]]
    cells = [
        [
            kind, str(row["width"]), str(row["depth"]), str(row["lanes"]), row["layout"] if row["lanes"] > 1 else "-",
            text.short(row["tokens_per_s"]), f"{100 * row['share']:.0f}%",
        ]
        for kind, row in rows
    ]  # fmt: skip
    kernels = [[r["kernel"], str(r["context"]), f"{1e3 * r['seconds']:.3g}"] for r in report["attention"]]
    best = [[str(r["width"]), str(r["lanes"]), r["layout"], f"{r['gain']:.2f}x"] for r in report["recommended"]]
    tables = [
        (["matmul", "TFLOP/s, all devices"], peaks),
        (["runs", "width", "depth", "lanes a device", "layout", "tokens/s", "of peak"], cells),
        (["attention", "context", "ms forward and backward"], kernels),
        (["width", "recommended lanes a device", "layout", "beside one lane"], best),
    ]
    return "\n\n".join(
        [
            f"{report['device']}, JAX {report['jax']}, {report['seconds']:.0f} s",
            *(text.table(header, rows, "") for header, rows in tables if rows),
            *([f"left out: {'; '.join(report['skipped'])}"] if report["skipped"] else []),
        ]
    )


def _depth(width: int) -> int:
    return 2 if width < 128 else 4 if width < 512 else 8


def _study(width: int, lanes: int, context: int, batch_size: int) -> tuple[Study, Pack, Spec]:
    """A study of one scale with so many lanes."""
    spec = Spec("tokens", VOCAB, context)
    rates = tuple(0.001 * (1 + i / lanes) for i in range(lanes))
    study = Study(
        name="bench",
        family=Transformer(head_dim=min(width, 32 if width < 512 else 128)),
        ladder=Ladder(widths=(width,), depths=(_depth(width),)),
        budgets=Budgets(tokens=(1e9,)),
        optimizer=Optimizer(learning_rates=rates, batch_size=batch_size),
        data=Data(context=context),
        evaluation=Evaluation(examples=batch_size, batch_size=batch_size),
    )
    (pack,) = make_plan(study, spec)
    return study, pack, spec


def _program(
    study: Study, pack: Pack, spec: Spec, execution: Execution, mesh: tuple[int, int, int], devices: Sequence[Any]
) -> LaneProgram:
    """The engine's own program on tokens drawn at random."""
    tokens = np.random.default_rng(0).integers(0, VOCAB, 200_000).astype(np.uint8)
    feed = ResidentFeed(Dataset(spec, tokens, tokens, "0" * 16, 1.0, len(tokens), {}))
    scaling = Scaling("mup", pack.width, 32)
    model = study.family.build(pack.width, pack.depth, spec, scaling, execution)
    return LaneProgram(model, study, execution, make_mesh(devices, mesh), pack.lanes, feed, 1024)


def _step_seconds(program: LaneProgram, seconds: float) -> float:
    """Median seconds of a step over dispatches of many, the next one queued while one runs, as the loop does."""
    hparams = program.hparams(Phase("trunk", 0, NO_DECAY - 1, NO_DECAY, NO_DECAY, -1))
    states, losses = program.train(program.init(), hparams, 0, 1)  # compiles
    jax.block_until_ready(losses)
    begin = time.perf_counter()
    states, losses = program.train(states, hparams, 0, 2)
    jax.block_until_ready(losses)
    one = (time.perf_counter() - begin) / 2
    chunk = int(min(program.buffer_steps, max(1, seconds / 4 / one)))
    times, begin = [], time.perf_counter()
    states, pending = program.train(states, hparams, 0, chunk)
    last = begin
    while last - begin < seconds or len(times) < 2:
        states, losses = program.train(states, hparams, 0, chunk)
        program.fetch(pending)
        now = time.perf_counter()
        times.append((now - last) / chunk)
        last, pending = now, losses
    program.fetch(pending)
    return statistics.median(times)


def _attention_seconds(kernel: str, shape: tuple[int, ...], dtype: str, seconds: float) -> float:
    x = jnp.ones(shape, dtype)

    def total(q, k, v):
        return attention.causal_attention(q, k, v, kernel).astype(jnp.float32).sum()

    step = jax.jit(jax.grad(total, (0, 1, 2))).lower(x, x, x).compile()
    return _best_seconds(lambda: step(x, x, x), seconds)


def _best_seconds(call: Callable[[], Any], seconds: float) -> float:
    jax.block_until_ready(call())
    best, begin = math.inf, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - start)
    return best
