"""Chooses the layout of a device's lanes: measured once per shape and accelerator, recorded, and kept on resume.

On a CPU no layout beats one lane after another (benchmarks/README.md), so nothing is timed there: compiling two more
programs costs more than a better layout could save, and on a busy machine the clock picks by chance.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from absl import logging

from scaling_jax.errors import UserError
from scaling_jax.planning import Pack
from scaling_jax.storage import stored_json
from scaling_jax.storage.paths import as_path, cache_dir, write_atomic
from scaling_jax.storage.records import Records
from scaling_jax.study import Execution, Study, content_hash
from scaling_jax.training import distributed, hardware
from scaling_jax.training.program import LaneProgram

Layout = Literal["vmap", "map", "sequential"]
LAYOUTS = get_args(Layout)
TRIAL_SECONDS = 1.0
WORTH_SECONDS = 60.0  # of training; compiling and timing three layouts takes about as long
LOW_SHARE = 0.002  # of an accelerator's peak: a single small lane reaches about as much


@dataclasses.dataclass(frozen=True)
class _Recorded:
    layout: Layout
    branches: int = 1


def choose_layout(
    execution: Execution,
    pack: Pack,
    study: Study,
    mesh: jax.sharding.Mesh,
    records: Records,
    program: Callable[[str, int], LaneProgram],
) -> str:
    """The layout recorded in the workdir, else the study's, else the fastest in a short timed trial.

    A recorded layout wins, so that a resumed pack repeats its losses bit by bit; it is written before training. Several
    processes use what the leader reads, without a trial: their clocks would not agree on when it ends.
    """
    path, together = _record(pack, records), branches_together(study, pack, records)
    if not distributed.is_single_process():
        layout = "map" if execution.layout == "auto" else execution.layout
        if path.exists() and distributed.is_leader():
            layout = _recorded(path).layout
        layout = LAYOUTS[int(distributed.broadcast_from_leader([LAYOUTS.index(layout)])[0])]
        if distributed.is_leader() and not path.exists():
            write_atomic(path, json.dumps({"layout": layout, "mesh": dict(mesh.shape), "seconds_per_step": {}}))
        return layout
    if path.exists():
        return _recorded(path).layout
    if wants_trial(execution, pack, mesh.shape["run"], records):
        layout, seconds = _trial(execution, pack, study, mesh, program)
    elif execution.layout != "auto":
        layout, seconds = execution.layout, {}
    else:
        layout, seconds = default_layout(len(pack.lanes), mesh.shape["run"]), {}
    found = {"layout": layout, "branches": together, "mesh": dict(mesh.shape), "seconds_per_step": seconds}
    write_atomic(path, json.dumps(found))
    return layout


def default_layout(num_lanes: int, run_axis: int) -> str:
    """The layout without a trial: accelerators are filled by lanes side by side, a core by one."""
    if num_lanes <= run_axis:
        return "map"  # one lane a device: all layouts are the same program
    return "sequential" if jax.default_backend() == "cpu" else "vmap"


def branches_together(study: Study, pack: Pack, records: Records) -> int:
    """Branches that one program of the pack trains side by side: as recorded in the workdir, else as the study says."""
    path = _record(pack, records)
    if path.exists():
        return _recorded(path).branches
    return min(study.execution.branches, len(pack.budgets))


def wants_trial(execution: Execution, pack: Pack, run_axis: int, records: Records) -> bool:
    """True when the layouts should be timed: lanes share an accelerator, train for long, and nothing is recorded."""
    if jax.default_backend() == "cpu" or execution.layout != "auto" or len(pack.lanes) <= run_axis:
        return False
    undecided = not _record(pack, records).exists()
    return undecided and pack.trained_flops / (LOW_SHARE * hardware.peak_flops()[0]) > WORTH_SECONDS


def _record(pack: Pack, records: Records) -> Any:
    return records.root / "checkpoints" / f"{pack.name}.layout.json"


def _recorded(path: Any) -> _Recorded:
    try:
        return stored_json.read(path, _Recorded)
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}); remove it: the layout is then chosen again, and what is not trained "
            "yet may differ by rounding"
        ) from error


def _trial(
    execution: Execution,
    pack: Pack,
    study: Study,
    mesh: jax.sharding.Mesh,
    program: Callable[[str, int], LaneProgram],
) -> tuple[str, dict[str, float]]:
    """(fastest layout, seconds per step of each), from the machine's cache when this shape was tried before."""
    key = content_hash(
        {
            "family": study.to_dict()["family"],
            "shape": [pack.width, pack.depth, pack.batch_size, pack.tokens_per_step, len(pack.lanes)],
            "mesh": dict(mesh.shape),
            "device": hardware.describe(),
            "dtype": execution.compute_dtype,
            "optimizer": study.optimizer.name,
        }
    )
    cache = as_path(cache_dir() / "layouts" / f"{key}.json")
    seconds = _tried(cache)
    if not seconds:
        seconds = {layout: _time(program(layout, 16), pack) for layout in LAYOUTS}
        write_atomic(cache, json.dumps(seconds))
        shown = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in seconds.items())
        logging.info("%s: layout trial, seconds per step of %d lanes: %s", pack.name, len(pack.lanes), shown)
    return min(seconds, key=seconds.__getitem__), seconds


def _tried(cache: Any) -> dict[str, float]:
    """Seconds per step of each layout as an earlier trial left them; {} where none did, or they cannot be read."""
    try:
        return stored_json.read(cache, dict[Layout, float])
    except (ValueError, OSError):
        return {}


def _time(trial: LaneProgram, pack: Pack) -> float:
    """Best seconds per step over chunks of a few steps."""
    hparams = trial.hparams(pack.phases[0])
    states, losses = trial.train(trial.init(), hparams, 0, 8)  # compiles
    jax.block_until_ready(losses)
    best, begin = float("inf"), time.monotonic()
    while best == float("inf") or time.monotonic() - begin < TRIAL_SECONDS:
        start = time.perf_counter()
        states, losses = trial.train(states, hparams, 0, 8)
        jax.block_until_ready(losses)
        best = min(best, (time.perf_counter() - start) / 8)
    return best
