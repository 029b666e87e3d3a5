"""A pack on the devices: every lane of one shape in one compiled program.

Lanes are stacked on a leading axis and spread over the mesh's `run` axis without collectives; `data` and `fsdp` split
the batch and the parameters of lanes that are too big for one device. What remains on a device is laid out as

  vmap        all lanes in one batched step,
  map         one after another inside the program (`lax.map`),
  sequential  one after another, a program call each.

Steps run in a `fori_loop` with a traced trip count: one compilation serves chunks of every length, trunk and branch,
and every rate, decay and seed. A frozen lane takes no time in `map` and `sequential`; under `vmap` it takes its share.

Branches are lanes, too: a program of several `branches` trains that many cool-downs of every lane side by side, each
from its own step on.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling_jax.data.augment import augment_key
from scaling_jax.models import partition
from scaling_jax.models.family import Model
from scaling_jax.planning import Lane, Phase
from scaling_jax.study import Execution, Study
from scaling_jax.training import distributed, optimizers, regroup
from scaling_jax.training import step as steps
from scaling_jax.training.compiled import Compiled
from scaling_jax.training.placement import Placement

AXES = ("run", "data", "fsdp")
P = jax.sharding.PartitionSpec
SLOT = (np.int32, np.float32, np.bool_)  # seed, scale of the initialization, whether it is a lane
BUFFER_BYTES = 64 * 2**20  # of one dispatch's inputs
INPUTS = P(None, None, partition.BATCH_AXES)  # [seeds, steps, batch, ...]: where a batch is split, so is what is read


def make_mesh(devices: Sequence[Any], shape: tuple[int, int, int]) -> jax.sharding.Mesh:
    """Mesh of (run, data, fsdp); Auto axes, since Linen's and optax's code is written for them."""
    grid = np.asarray(devices, dtype=object).reshape(shape)
    return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


class LaneProgram:
    """The compiled functions of one pack on one mesh; each compiles when first used, all at once in `compile`.

    Args:
      model: pure functions of the pack's scale, from `Family.build` with this `execution`.
      study: its optimizer, schedule and evaluation settings are read.
      execution: resolved by `hardware.resolve`; `layout` is "vmap", "map" or "sequential".
      mesh: from `make_mesh`; the `run` axis takes lanes, `data` and `fsdp` split each lane.
      lanes: the pack's, in the order of its runs.
      feed: a `ResidentFeed` or `StreamFeed` of the study's data.
      buffer_steps: largest number of steps per dispatch; reduced if their inputs would exceed `BUFFER_BYTES`.
      branches: phases that are trained side by side.
      some_stop: whether lanes are frozen in some phases (`Phase.lanes`).
    """

    def __init__(
        self,
        model: Model,
        study: Study,
        execution: Execution,
        mesh: jax.sharding.Mesh,
        lanes: Sequence[Lane],
        feed: Any,
        buffer_steps: int,
        branches: int = 1,
        some_stop: bool = False,
    ):
        self.model, self.study, self.execution, self.mesh, self.feed = model, study, execution, mesh, feed
        assert isinstance(study.optimizer.batch_size, int), "the pack's own study (`Pack.settled`)"
        assert execution.microbatches != "auto", "resolved"
        self.microbatches = execution.microbatches
        self.num_lanes, self.branches, self.batch_size = len(lanes), branches, study.optimizer.batch_size
        self.some_stop = some_stop
        one_by_one = execution.layout == "sequential"
        self.placement = Placement(lanes, branches, mesh.shape["run"], one_by_one, some_stop)
        self.groups, self.seeds = self.placement.groups, self.placement.seeds
        self.lanes_per_device = len(self.groups[0]) // mesh.shape["run"]
        self.max_loss = study.optimizer.max_loss_factor * math.log(feed.spec.vocab_size)
        self.decay = "cosine" if study.schedule.name == "cosine" else "linear"
        self.arrays = feed.arrays(mesh)
        self.validation = self._put(feed.validation_inputs(study.evaluation.examples, study.evaluation.batch_size), P())
        self._rows = distributed.local_rows(self._sharding(P(partition.BATCH_AXES)), self.batch_size)
        self._read = [feed.reader(self.batch_size, self._rows) for _ in range(branches)]
        self._step_inputs = feed.abstract_inputs(self.batch_size)
        step_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self._step_inputs))
        self.buffer_steps = max(1, min(buffer_steps, BUFFER_BYTES // (step_bytes * len(self.seeds) * branches)))
        self._init, self._start = Compiled(self.init_program, rarely=True), Compiled(self.start_program, rarely=True)
        self._copy = Compiled(self.copy_program)
        self.trainer, self._evaluate = Compiled(self.train_program), Compiled(self.evaluate_program)

    # For one lane, on one device.

    def _lane_init(self, seed: Any, init_scale: Any, active: Any) -> dict[str, Any]:
        state = steps.init_state(self.model, self.study.optimizer, seed, init_scale)
        return state | {"diverged_step": jnp.where(active, jnp.int32(-1), jnp.int32(0))}

    def _lane_start(self, params: Any, active: Any) -> dict[str, Any]:
        state = steps.state_of(self.model, self.study.optimizer, params)
        return state | {"diverged_step": jnp.where(active, jnp.int32(-1), jnp.int32(0))}

    def _lane_chunk(
        self, state: Any, hparams: Any, span: Any, inputs_SxK: Any, longest: Any, arrays: Any
    ) -> tuple[Any, Any]:
        """`span["num_steps"]` updates of one lane -> (state, losses [K], NaN beyond them).

        `longest` is the number of steps of the lane that takes most of them.
        """
        first_step, num_steps = span["first_step"], span["num_steps"]
        if self.some_stop:
            num_steps = jnp.where(hparams["takes_part"], num_steps, 0)
        batched = self.execution.layout == "vmap"

        def body(i, carry):
            state, losses_K = carry
            inputs = jax.tree.map(lambda x_SxKxB: x_SxKxB[hparams["stream"], i], inputs_SxK)
            batch = self.feed.make_batch(arrays, inputs, augment_key(hparams["seed"], first_step + i))
            new_state, loss = steps.train_step(
                self.model,
                self.study.optimizer,
                self.decay,
                state,
                hparams,
                first_step + i,
                jax.tree.map(partition.split_batch, batch),
                self.microbatches,
                self.max_loss,
            )
            trains = state["diverged_step"] < 0
            if batched and (self.branches > 1 or self.some_stop):  # a shorter branch waits for the longest
                trains &= i < num_steps
                new_state = jax.tree.map(lambda new, old: jnp.where(i < num_steps, new, old), new_state, state)
            # A frozen lane has no loss, whatever the layout.
            return new_state, losses_K.at[i].set(jnp.where(trains, loss, jnp.nan))

        # A frozen lane takes no time; under vmap the bound must not vary by lane.
        bound = longest if batched else jnp.where(state["diverged_step"] < 0, num_steps, 0)
        return jax.lax.fori_loop(0, bound, body, (state, jnp.full(self.buffer_steps, jnp.nan)))

    def _lane_evaluate(self, state: Any, inputs_N: Any, arrays: Any) -> Any:
        """Sums over the fixed validation set for one lane."""
        params = optimizers.evaluation_params(self.study.optimizer, state)

        def sums_of(i):
            batch = self.feed.make_batch(arrays, jax.tree.map(lambda x: x[i], inputs_N))
            return self.model.evaluate(params, jax.tree.map(partition.split_batch, batch))

        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(sums_of, 0))
        count = jax.tree.leaves(inputs_N)[0].shape[0]
        return jax.lax.fori_loop(0, count, lambda i, sums: jax.tree.map(jnp.add, sums, sums_of(i)), zero)

    # All lanes of a device, all devices.

    def _over_lanes(self, one_lane: Callable[..., Any], num_stacked: int) -> Callable[..., Any]:
        """Applies `one_lane` to every lane of a device; the first `num_stacked` arguments are stacked by lane."""
        # Kernels want every axis to be manual; what splits the batch and the parameters is the partitioner's.
        manual = {"run"} if self.mesh.shape["data"] * self.mesh.shape["fsdp"] > 1 else set(AXES)

        def local(*args):
            stacked, shared = args[:num_stacked], args[num_stacked:]
            if self.lanes_per_device == 1:
                out = one_lane(*jax.tree.map(lambda x: x[0], stacked), *shared)
                return jax.tree.map(lambda x: x[None], out)
            if self.execution.layout == "vmap":
                return jax.vmap(lambda *s: one_lane(*s, *shared))(*stacked)
            return jax.lax.map(lambda s: one_lane(*s, *shared), stacked)

        def spread(*args):
            specs = tuple(P("run") if i < num_stacked else P() for i in range(len(args)))
            return jax.shard_map(
                local, mesh=self.mesh, in_specs=specs, out_specs=P("run"), axis_names=manual, check_vma=False
            )(*args)

        return spread

    # The programs: each a jitted function and the ShapeDtypeStructs of its arguments.

    @functools.cached_property
    def state_shapes(self) -> Any:
        """ShapeDtypeStructs of one group's state."""
        slots = (jax.ShapeDtypeStruct((len(self.groups[0]),), kind) for kind in SLOT)
        return jax.eval_shape(jax.vmap(self._lane_init), *slots)

    @functools.cached_property
    def state_sharding(self) -> Any:
        """Shardings of one group's state: lanes over `run`, the largest other axis that `fsdp` divides over `fsdp`."""
        fsdp = self.mesh.shape["fsdp"]

        def one(leaf):
            axes: list[Any] = ["run"] + [None] * (leaf.ndim - 1)
            sizes = [(n, -i) for i, n in enumerate(leaf.shape) if i > 0 and n % fsdp == 0 and n > 1]
            if fsdp > 1 and sizes:
                axes[-max(sizes)[1]] = "fsdp"
            return self._sharding(P(*axes))

        return jax.tree.map(one, self.state_shapes)

    @functools.cached_property
    def abstract_state(self) -> Any:
        """One group's state as ShapeDtypeStructs with shardings."""
        return jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            self.state_shapes,
            self.state_sharding,
        )

    def init_program(self) -> tuple[Any, tuple[Any, ...]]:
        """(seeds, init_scales, active), stacked by lane -> state."""
        slots = tuple(self._abstract(np.zeros(len(self.groups[0]), kind), P("run")) for kind in SLOT)
        return jax.jit(jax.vmap(self._lane_init), out_shardings=self.state_sharding), slots

    def start_program(self) -> tuple[Any, tuple[Any, ...]]:
        """(params, active), stacked by lane -> state."""
        arguments = self.state_shapes["params"], jax.ShapeDtypeStruct((len(self.groups[0]),), jnp.bool_)
        start = jax.jit(jax.vmap(self._lane_start), out_shardings=self.state_sharding)
        return start, self._abstract(arguments, P("run"))

    def copy_program(self) -> tuple[Any, tuple[Any, ...]]:
        """state -> another."""
        copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=self.state_sharding)
        return copy, (self.abstract_state,)

    def train_program(self) -> tuple[Any, tuple[Any, ...]]:
        """(state, hparams, span, inputs, most steps of a lane, arrays) -> (state, losses); the state is donated."""
        train = jax.jit(
            self._over_lanes(self._lane_chunk, 3),
            donate_argnums=0,
            out_shardings=(self.state_sharding, self._sharding(P("run"))),
        )
        longest = self._abstract(np.int32(0), P())
        leading = (self.branches * len(self.seeds), self.buffer_steps)
        inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype), self._step_inputs)
        inputs = self._abstract(inputs, INPUTS)
        group, placement = self.groups[0], self.placement
        per_lane = (placement.hparams(group, self.study, ()), placement.span(group, (), ()))
        per_lane = self._abstract(per_lane, P("run"))
        arrays = self._abstract(self.arrays["train"], P())
        return train, (self.abstract_state, *per_lane, inputs, longest, arrays)

    def evaluate_program(self) -> tuple[Any, tuple[Any, ...]]:
        """(state, inputs, arrays) -> sums, stacked by lane."""
        evaluate = jax.jit(self._over_lanes(self._lane_evaluate, 1))
        shared = self._abstract((self.validation, self.arrays["validation"]), P())
        return evaluate, (self.abstract_state, *shared)

    def compile(self, init: bool = True) -> None:
        """Compiles all programs at once, with `init` also that of fresh states: nothing compiles once training runs."""
        programs = (self.trainer, self._evaluate, self._copy, *((self._init,) if init else ()))
        with concurrent.futures.ThreadPoolExecutor(len(programs)) as pool:
            list(pool.map(Compiled.compile, programs))

    def _sharding(self, spec: Any) -> jax.NamedSharding:
        return jax.NamedSharding(self.mesh, spec)

    def _put(self, tree: Any, spec: Any) -> Any:
        return distributed.to_device(tree, self._sharding(spec))

    def _abstract(self, tree: Any, spec: Any) -> Any:
        sharding = self._sharding(spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    def _inputs(self, first_steps: Sequence[int], counts: Sequence[int]) -> Any:
        """The feed's inputs of these steps for every branch and seed, [branches x seeds, buffer_steps, batch, ...].

        Zero beyond each branch's steps, and in rows that no device of this process holds.
        """
        streams = [
            (branch * len(self.seeds) + i, count, self._read[branch](seed, first, count))
            for branch, (first, count) in enumerate(zip(first_steps, counts))
            for i, seed in enumerate(self.seeds)
            if count
        ]

        def pad(like, *read):
            out = np.zeros((self.branches * len(self.seeds), self.buffer_steps, *like.shape), like.dtype)
            for (stream, count, _), x in zip(streams, read):
                out[stream][:count, self._rows] = x  # in one index, NumPy would put the rows first
            return out

        return jax.tree.map(pad, self._step_inputs, *(inputs for _, _, inputs in streams))

    # The interface: states are tuples of groups.

    def init(self, params: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """States of all lanes before their first step.

        Args:
          params: of every lane, on the host; None for fresh ones.
        """
        out = []
        for group in self.groups:
            slots = [self.placement.slots[i] for i in group]
            active = np.asarray([i < self.num_lanes * self.branches for i in group])
            if params is None:
                seeds = np.array([slot.seed for slot in slots], np.int32)
                scales = np.array([slot.init_scale for slot in slots], np.float32)
                out.append(self._init(*self._put((seeds, scales, active), P("run"))))
            else:
                lanes = [i % self.num_lanes if on else self.num_lanes - 1 for i, on in zip(group, active)]
                stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(params[lane] for lane in lanes))
                out.append(self._start(*self._put((stacked, active), P("run"))))
        return tuple(out)

    def copy(self, states: tuple[Any, ...]) -> tuple[Any, ...]:
        """A copy that survives the donation of the original, for branches and checkpoints."""
        return tuple(self._copy(state) for state in states)

    def place(self, states: tuple[Any, ...]) -> tuple[Any, ...]:
        """The states of one branch, from wherever they are, on these devices."""
        if jax.tree.leaves(states[0])[0].sharding.mesh == self.mesh:
            return states
        return tuple(
            jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, like))
            for state, like in zip(states, self.part_like)
        )

    @functools.cached_property
    def part_like(self) -> tuple[Any, ...]:
        """The states of one branch as ShapeDtypeStructs with shardings: what checkpoints hold."""
        run_axis = self.mesh.shape["run"]
        padded = math.ceil(self.num_lanes / run_axis) * run_axis
        size = run_axis if self.execution.layout == "sequential" else padded

        def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)

        return (jax.tree.map(one, self.abstract_state),) * (padded // size)

    def join(self, parts: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...]:
        """States of all branches from those of each; None for one that is not trained."""
        if self.branches == 1 and parts[0] is not None:
            return parts[0]
        like = (self.abstract_state,) * len(self.groups)
        return regroup.join([*parts, *[None] * (self.branches - len(parts))], like, self.num_lanes)

    def part(self, states: tuple[Any, ...], branch: int) -> tuple[Any, ...]:
        """A copy of the states of one branch."""
        if self.branches == 1:
            return self.copy(states)
        return regroup.part(states, self.part_like, branch, self.num_lanes)

    def init_part(self, params: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """`init` of one branch."""
        return self.init(params) if self.branches == 1 else self.part(self.init(params), 0)

    def hparams(self, *phases: Phase | None) -> tuple[Any, ...]:
        """The traced hyperparameters of every lane in its branch's phase, on the devices."""
        return tuple(self._put(self.placement.hparams(group, self.study, phases), P("run")) for group in self.groups)

    def train(
        self,
        states: tuple[Any, ...],
        hparams: tuple[Any, ...],
        first_step: int | Sequence[int],
        num_steps: int | Sequence[int],
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Dispatches updates of every lane and returns without waiting.

        Args:
          states: as `init` makes them; donated.
          hparams: of `hparams`.
          first_step, num_steps: where the lanes of each branch are, and how many steps they take; a number for one.

        Returns:
          (states, losses): losses is a tuple of device arrays [slots of the group, buffer_steps].
        """
        firsts, counts = (tuple(np.atleast_1d(x).tolist()) for x in (first_step, num_steps))
        longest = self._put(np.int32(max(counts)), P())
        inputs = self._put(self._inputs(firsts, counts), INPUTS)
        out = []
        for group, state, hps in zip(self.groups, states, hparams):
            span = self._put(self.placement.span(group, firsts, counts), P("run"))
            out.append(self.trainer(state, hps, span, inputs, longest, self.arrays["train"]))
        return tuple(state for state, _ in out), tuple(losses for _, losses in out)

    def evaluate(self, states: tuple[Any, ...]) -> tuple[Any, ...]:
        """Dispatches the validation of every lane; sums by group, stacked by lane, on the devices."""
        return tuple(self._evaluate(state, self.validation, self.arrays["validation"]) for state in states)

    def fetch(self, groups: tuple[Any, ...]) -> list[Any]:
        """Groups that are stacked by slot, on the host, as one pytree per lane (of every branch)."""
        host = distributed.to_host(groups)
        slots = [jax.tree.map(lambda x, i=i: x[i], tree) for g, tree in zip(self.groups, host) for i in range(len(g))]
        return slots[: self.num_lanes * self.branches]
