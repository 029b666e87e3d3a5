"""Maps lanes of branches to slots of a program, and builds the arguments of each slot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scaling_jax.planning import Lane, Phase
from scaling_jax.study import Study


class Placement:
    """Slots by branch, then by lane.

    A *slot* is a lane of a branch, or padding that gives every device equally many: a frozen copy of the last lane. A
    *group* is the slots of one program call. A *stream* is the batches of one seed, from where one branch is.

    Args:
      lanes: of the pack.
      branches: phases that are trained side by side.
      run_axis: devices that lanes are spread over.
      one_by_one: every device trains its slots in a call each.
      some_stop: lanes are frozen in some phases.
    """

    def __init__(self, lanes: Sequence[Lane], branches: int, run_axis: int, one_by_one: bool, some_stop: bool):
        padded = math.ceil(len(lanes) * branches / run_axis) * run_axis
        per_group = run_axis if one_by_one else padded
        self.num_lanes, self.branches, self.some_stop = len(lanes), branches, some_stop
        self.slots = tuple(lanes) * branches + (lanes[-1],) * (padded - len(lanes) * branches)
        self.groups = tuple(range(i, i + per_group) for i in range(0, padded, per_group))
        self.seeds = tuple(sorted({lane.seed for lane in lanes}))

    def hparams(self, group: Sequence[int], study: Study, phases: Sequence[Phase | None]) -> dict[str, np.ndarray]:
        """Hyperparameters of every slot of a group in the phase of its branch; branches may have none."""
        lanes, branches = [self.slots[i] for i in group], self._branches(group)
        of_slot = [(*phases, *[None] * self.branches)[branch] for branch in branches]
        stream = [branch * len(self.seeds) + self.seeds.index(lane.seed) for branch, lane in zip(branches, lanes)]
        warmups = np.array([lane.warmup_steps for lane in lanes], np.float32)
        starts = np.array([phase.decay_start if phase else 0 for phase in of_slot], np.float32)
        found = {
            "learning_rate": np.array([lane.learning_rate for lane in lanes], np.float32),
            "weight_decay": np.array([lane.weight_decay for lane in lanes], np.float32),
            "seed": np.array([lane.seed for lane in lanes], np.int32),
            "stream": np.array(stream, np.int32),
            "warmup_steps": warmups,
            "decay_start": warmups if any(phases) and study.schedule.name == "cosine" else starts,
            "decay_stop": np.array([phase.decay_stop if phase else 0 for phase in of_slot], np.float32),
            "final_fraction": np.full(len(lanes), study.schedule.final_fraction, np.float32),
        }
        if not isinstance(study.optimizer.b2, float):  # swept; else a constant of the program
            found["b2"] = np.array([lane.b2 for lane in lanes], np.float32)
        if self.some_stop:
            place = [min(i - branch * self.num_lanes, self.num_lanes - 1) for i, branch in zip(group, branches)]
            found["takes_part"] = np.array([p is not None and i in p.lanes for i, p in zip(place, of_slot)])
        return found

    def span(self, group: Sequence[int], first_steps: Sequence[int], counts: Sequence[int]) -> dict[str, np.ndarray]:
        """Steps that every slot takes in a dispatch; branches beyond those given take none."""
        branches, none = self._branches(group), [0] * self.branches
        return {
            "first_step": np.array([(*first_steps, *none)[branch] for branch in branches], np.int32),
            "num_steps": np.array([(*counts, *none)[branch] for branch in branches], np.int32),
        }

    def _branches(self, group: Sequence[int]) -> list[int]:
        return [min(i // self.num_lanes, self.branches - 1) for i in group]
