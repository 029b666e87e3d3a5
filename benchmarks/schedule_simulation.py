"""How long a study of 10,000 packs takes on machines that are taken away every 1 to 6 hours, and what that loses.

    python benchmarks/schedule_simulation.py            # prints the table of schedule_simulation.md

The packs and their times are the planner's: `make_plan` of a ladder of 100 widths x 100 depths, at the speed it assumes
of one v5e-8 host. The order is the engines': `longest_first`, and a pack that was preempted goes on before a new one
starts. A machine's life is uniform between 1 and 6 hours; its successor comes after 5 minutes; every start of a pack
costs a minute (process, data, compilation cache, restore); checkpoints are `Execution.checkpoint_seconds` apart.
"""

from __future__ import annotations

import dataclasses
import heapq
import sys
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from scaling_jax.engines.base import longest_first
from scaling_jax.engines.estimate import ASSUMED_SHARE
from scaling_jax.models import Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Execution, Ladder, Optimizer, Schedule, Study
from scaling_jax.training.hardware import KNOWN_PEAKS

HOUR = 3600.0
MACHINES = (1, 64, 1024)


@dataclasses.dataclass(frozen=True)
class World:
    """What machines do, in seconds.

    Attributes:
      life: shortest and longest time until a machine is taken away.
      replace: until its successor is there.
      start: from the start of a pack's command to its first new step.
      checkpoint: between checkpoints.
      notice: whether a machine says SIGTERM early enough to save; without, what is since the last checkpoint is lost.
    """

    life: tuple[float, float] = (1 * HOUR, 6 * HOUR)
    replace: float = 300.0
    start: float = 60.0
    checkpoint: float = Execution().checkpoint_seconds
    notice: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Attributes:
    makespan, bound: seconds until the last pack is done, and no schedule could do it in less on machines that last.
    lost: seconds of training lost at each preemption.
    """

    makespan: float
    bound: float
    lost: np.ndarray


def ladder_seconds(widths: Sequence[int] = range(56, 856, 8), depths: Sequence[int] = range(1, 101)) -> np.ndarray:
    """The planner's time for every pack of a ladder, in the engines' order."""
    scales = [(width, depth) for width in widths for depth in depths]
    study = Study(
        name="many_packs",
        family=Transformer(head_dim=8),
        ladder=Ladder(widths=tuple(w for w, _ in scales), depths=tuple(d for _, d in scales)),
        budgets=Budgets(tokens_per_param=(5,), min_steps=1),
        optimizer=Optimizer(batch_size=64),
        schedule=Schedule(warmup_steps=0),
    )
    packs = make_plan(study, Spec(kind="tokens", vocab_size=256, context=128))
    speed = ASSUMED_SHARE["tpu"] * 8 * KNOWN_PEAKS["TPU v5e"]
    return np.array([pack.trained_flops / speed for pack in longest_first(packs)])


def lower_bound(seconds: np.ndarray, machines: int) -> float:
    """No schedule is shorter than the work spread evenly, nor than its longest pack."""
    return max(seconds.sum() / machines, seconds.max())


def simulate(
    seconds: Sequence[float], machines: int, world: World | None = None, preempted_last: bool = False, seed: int = 0
) -> Outcome:
    """Plays a study to its end.

    Args:
      seconds: training time of every pack, in the order of the queue.
      machines: that work at once, one pack each.
      preempted_last: puts a preempted pack behind all others, as a plain queue would.
    """
    world = world or World()
    lives = _lives(np.random.default_rng(seed), world)
    ends = [next(lives) for _ in range(machines)]  # when each machine is taken away
    new, preempted = deque(float(s) for s in seconds), deque()
    # (when, machine, what is left of the pack that it trained when it was taken away, or 0 when it is free)
    events = [(0.0, machine, 0.0) for machine in range(machines)]
    idle: list[int] = []
    lost, makespan = [], 0.0
    while events:
        now, machine, left = heapq.heappop(events)
        if left:
            preempted.append(left)
            heapq.heappush(events, (now + world.replace, machine, 0.0))
            ends[machine] = now + world.replace + next(lives)
            if idle:
                heapq.heappush(events, (now, idle.pop(), 0.0))
            continue
        born = now
        while ends[machine] <= now:  # taken away while it was idle
            born = ends[machine] + world.replace
            ends[machine] = born + next(lives)
        if born > now:
            heapq.heappush(events, (born, machine, 0.0))
            continue
        queues = (new, preempted) if preempted_last else (preempted, new)
        queue = next((queue for queue in queues if queue), None)
        if queue is None:
            idle.append(machine)
            continue
        work = queue.popleft()
        done = now + world.start + work
        if done <= ends[machine]:
            makespan = max(makespan, done)
            heapq.heappush(events, (done, machine, 0.0))
            continue
        trained = max(0.0, ends[machine] - now - world.start)
        saved = trained if world.notice else trained - trained % world.checkpoint
        lost.append(trained - saved)
        heapq.heappush(events, (ends[machine], machine, work - saved))
    return Outcome(makespan, lower_bound(np.asarray(seconds), machines), np.array(lost))


def _lives(rng: np.random.Generator, world: World) -> Iterator[float]:
    """Lengths of machines' lives."""
    while True:
        yield from rng.uniform(*world.life, 4096)


def table(seconds: np.ndarray) -> str:
    """The table, in Markdown."""
    lines = [
        "| machines | policy | lower bound | makespan | over the bound | preemptions | lost at each: mean, most |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    order = np.random.default_rng(1).permutation(len(seconds))
    for machines in MACHINES:
        for policy, queue, world, last in (
            ("longest first", seconds, World(), False),
            ("longest first, with notice", seconds, World(notice=True), False),
            ("longest first, preempted packs last", seconds, World(), True),
            ("any order", seconds[order], World(), False),
        ):
            out = simulate(queue, machines, world, preempted_last=last)
            lost = f"{out.lost.mean():.1f} s, {out.lost.max():.1f} s" if len(out.lost) else "-"
            lines.append(
                f"| {machines:,} | {policy} | {out.bound / HOUR:,.1f} h | {out.makespan / HOUR:,.1f} h "
                f"| {100 * (out.makespan / out.bound - 1):.1f}% | {len(out.lost):,} | {lost} |"
            )
    return "\n".join(lines)


def main() -> int:
    seconds = ladder_seconds()
    print(
        f"{len(seconds):,} packs of {seconds.min():.2g} s to {seconds.max() / HOUR:.1f} h, "
        f"{seconds.sum() / HOUR:,.0f} machine hours.\n\n{table(seconds)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
