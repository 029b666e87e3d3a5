"""What a training step's time goes to, by piece, on one core: what bounds its share of the matmul peak.

    python benchmarks/step_pieces.py [--widths=64,128] [--rounds=12]

One lane of step_speed.py's model, profiled in rounds. A piece's time is the sum over its operations of the 10th
percentile of their durations times their number: operations are so short that most are not interrupted, so that the sum
repeats within 2% on a machine where a step's CPU time varies by half. The peak is the best of step_speed.py's
matmuls on that core between the rounds.
"""

from __future__ import annotations

import collections
import glob
import os
import re
import tempfile

import numpy as np
import step_speed
from absl import app, flags

NAMES = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$", re.M)
PIECES = {  # by the functions that an operation comes from
    "softmax, masks, heads": r"_blocked|softmax",
    "norms and rotary positions": r"rms_norm|_norm_by|_inverse_rms|rotary",
    "squared ReLU": r"relu2",
    "loss": r"_nats|_logits|cross_entropy",
    "optimizer": r"keep|update_fn|tree_norm|\bupdate\b|learning_rate|clip",
    "residuals, copies of heads": r"Block\.__call__",
}


def functions(hlo: str) -> dict[str, str]:
    """By the number of a stack frame: the names of the functions on the stack."""

    def section(name: str) -> dict[str, str]:
        found = re.search(name + r"\n((?:\d+ .*\n)+)", hlo)
        assert found, f"no {name} in the program's text"
        return dict(line.split(" ", 1) for line in found.group(1).splitlines())

    def number(key: str, text: str) -> str:
        found = re.search(rf"{key}=(\d+)", text)
        return found.group(1) if found else ""

    names, places, frames = section("FunctionNames"), section("FileLocations"), section("StackFrames")
    out = {}
    for frame in frames:
        stack, at = [], frame
        while at in frames and len(stack) < 99:
            stack.append(names[number("function_name_id", places[number("file_location_id", frames[at])])])
            parent = number("parent_frame_id", frames[at])
            at = "" if parent == at else parent
        out[frame] = " ".join(stack)
    return out


def pieces_of(hlo: str) -> dict[str, str]:
    """The piece of every operation of a compiled program."""
    stacks, bodies = functions(hlo), dict(re.findall(r"^%([\w.\-]+) \([^\n]*\{\n(.*?)^\}", hlo, re.M | re.S))
    out = {}
    for name, text in NAMES.findall(hlo):
        called, frame = re.search(r"calls=%([\w.\-]+)", text), re.search(r"stack_frame_id=(\d+)", text)
        shape = re.match(r"\(?\w+\[([\d,]*)\]", text)
        sizes = shape.group(1).split(",") if shape else []
        if (" dot(" in text or (called and " dot(" in bodies.get(called.group(1), ""))) and "1" not in sizes:
            out[name] = "products of attention" if len(sizes) > 2 else "products with weights"
            continue
        stack = stacks.get(frame.group(1), "") if frame else ""
        found = (piece for piece, pattern in PIECES.items() if re.search(pattern, stack))
        out[name] = next(found, "gradients added up, embedding, rest")
    return out


def durations(step) -> dict[str, list[float]]:
    """Seconds of every operation that runs while `step` does, by name."""
    import jax

    out: dict[str, list[float]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            step()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        for plane in jax.profiler.ProfileData.from_file(path).planes:
            for line in plane.lines:
                for event in line.events:
                    out[event.name].append(event.duration_ns / 1e9)
    return out


def measure(width: int, core: int):
    """(seconds of a step by piece, operations by piece, FLOPs of a step, the best matmul's FLOP/s)."""
    from scaling_jax.planning import Phase

    program, chunk, counts = step_speed.lane_program(width, 1, 1)
    hparams, states = program.hparams(Phase("trunk", 0, 10**6, 2**31 - 1, 2**31 - 1, -1)), program.init()
    kinds, rounds = pieces_of(program.trainer.compile().as_text()), step_speed.ROUNDS.value

    def dispatch() -> None:
        nonlocal states
        states, losses = program.train(states, hparams, 0, chunk)
        program.fetch(losses)

    dispatch()
    times, peak = collections.defaultdict(list), 0.0
    for _ in range(rounds):
        for name, seconds in durations(dispatch).items():
            times[name] += seconds
        peak = max(peak, step_speed.result(step_speed.start("matmul", 1024, core=core)))
    total, number = collections.defaultdict(float), collections.defaultdict(float)
    for name, piece in kinds.items():
        if times[name] and not name.startswith("while"):
            each = len(times[name]) / (rounds * chunk)
            total[piece] += float(np.percentile(times[name], 10)) * each
            number[piece] += each
    return total, number, counts.flops_per_token * step_speed.BATCH.value * step_speed.CONTEXT, peak


def main(argv: list[str]) -> None:
    del argv
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # before JAX counts the cores
    found = {width: measure(width, core) for width in map(int, step_speed.WIDTHS.value)}
    peak = max(best for *_, best in found.values())
    for width, (total, number, flops, _) in found.items():
        whole = sum(total.values())
        products = sum(seconds for piece, seconds in total.items() if piece.startswith("products"))
        print(
            f"\nd={width}: {1e3 * whole:.1f} ms a step, {flops / whole / peak:.0%} of the peak of {peak / 1e9:.0f} "
            f"GFLOP/s; {flops / products / peak:.0%} if all but the products took no time\n"
        )
        print("| piece | ms | share | operations |\n|---|--:|--:|--:|")
        for piece, seconds in sorted(total.items(), key=lambda item: -item[1]):
            print(f"| {piece} | {1e3 * seconds:.2f} | {seconds / whole:.0%} | {number[piece]:.0f} |")


if __name__ == "__main__":
    flags.FLAGS.set_default("widths", ["64", "128"])
    flags.FLAGS.set_default("rounds", 12)
    flags.FLAGS.set_default("seconds", 0.5)
    app.run(main)
