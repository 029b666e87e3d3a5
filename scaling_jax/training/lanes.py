"""A pack on the devices: every lane of one shape in one compiled program.

Lanes are stacked on a leading axis and spread over the mesh's `run` axis without collectives; `data` and `fsdp` split
the batch and the parameters of lanes that are too big for one device. What remains on a device is laid out as

  vmap        all lanes in one batched step,
  map         one after another inside the program (`lax.map`), a frozen lane costs nothing,
  sequential  one after another, a program call each.

Steps run in a `fori_loop` with a traced trip count: one compilation serves chunks of every length, trunk and branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling_jax.models.family import Model
from scaling_jax.plan import Lane, Phase
from scaling_jax.study import Execution, Study
from scaling_jax.training import processes
from scaling_jax.training import step as steps

AXES = ("run", "data", "fsdp")
P = jax.sharding.PartitionSpec


def make_mesh(devices: Sequence[Any], shape: tuple[int, int, int]) -> jax.sharding.Mesh:
    """Mesh of (run, data, fsdp); Auto axes, since Linen's and optax's code is written for them."""
    grid = np.asarray(devices, dtype=object).reshape(shape)
    return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


class LaneProgram:
    """The compiled functions of one pack on one mesh.

    Args:
      model: the scale.
      study: optimiser and schedule are read.
      execution: resolved; `layout` is "vmap", "map" or "sequential".
      mesh: of `make_mesh`.
      lanes: of the pack.
      feed: gives arrays and batches.
      buffer_steps: the most steps one dispatch may take.
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
    ):
        self.model, self.study, self.execution, self.mesh, self.feed = model, study, execution, mesh, feed
        self.num_lanes, self.buffer_steps = len(lanes), buffer_steps
        self.batch_size = study.optimizer.batch_size
        run_axis = mesh.shape["run"]
        padded = math.ceil(len(lanes) / run_axis) * run_axis
        # Places that no lane needs hold a frozen copy of the last one, so that every device has equally many.
        self.places = tuple(lanes) + (lanes[-1],) * (padded - len(lanes))
        per_group = run_axis if execution.layout == "sequential" else padded
        self.groups = tuple(range(i, i + per_group) for i in range(0, padded, per_group))
        self.lanes_per_device = per_group // run_axis
        self.max_loss = study.optimizer.max_loss_factor * math.log(feed.spec.vocab_size)
        self.shape = "cosine" if study.schedule.name == "cosine" else "linear"
        self.arrays = feed.arrays(mesh)
        self.validation = self._put(feed.validation_inputs(study.evaluation.examples, study.evaluation.batch_size), P())
        self._compile()

    # What one device does, for one lane.

    def _lane_chunk(self, state, hparams, windows_KxB, first_step, num_steps, arrays):
        """`num_steps` updates of one lane -> (state, losses [K], zero beyond `num_steps`)."""
        key = jax.random.key(hparams["seed"])

        def body(i, carry):
            state, losses_K = carry
            batch_key = jax.random.fold_in(key, first_step + i)
            batch = self._split(self.feed.make_batch(arrays, windows_KxB[i], batch_key))
            state, loss = steps.train_step(
                self.model,
                self.study.optimizer,
                self.shape,
                state,
                hparams,
                first_step + i,
                batch,
                self.execution.microbatches,
                self.max_loss,
            )
            return state, losses_K.at[i].set(loss)

        if self.execution.layout != "vmap":  # a frozen lane takes no time; under vmap the bound must not vary by lane
            num_steps = jnp.where(state["diverged_step"] < 0, num_steps, 0)
        return jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(windows_KxB.shape[0])))

    def _lane_evaluate(self, params, arrays, windows_NxB):
        """Sums over the fixed validation set for one lane."""

        def body(i, sums):
            batch = self._split(self.feed.make_batch(arrays, windows_NxB[i]))
            return jax.tree.map(jnp.add, sums, self.model.evaluate(params, batch))

        zero = jax.eval_shape(lambda: self.model.evaluate(params, self.feed.make_batch(arrays, windows_NxB[0])))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), zero)
        return jax.lax.fori_loop(0, windows_NxB.shape[0], body, zero)

    def _split(self, batch):
        """Splits a batch over the data and fsdp axes where there are any."""
        if self.mesh.shape["data"] * self.mesh.shape["fsdp"] == 1:
            return batch
        return jax.lax.with_sharding_constraint(batch, jax.NamedSharding(self.mesh, P(("data", "fsdp"))))

    # All lanes of a device, all devices.

    def _over_lanes(self, one_lane, num_stacked: int):
        """Applies `one_lane` to every lane of a device; the first `num_stacked` arguments are stacked by lane."""

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
                local, mesh=self.mesh, in_specs=specs, out_specs=P("run"), axis_names={"run"}, check_vma=False
            )(*args)

        return spread

    def _compile(self) -> None:
        """Compiles training; the rest compiles at its first call."""
        size = len(self.groups[0])
        vector = {"seed": (jnp.int32,), "init_scale": (jnp.float32,), "active": (jnp.bool_,)}
        example = {k: jax.ShapeDtypeStruct((size,), *dtype) for k, dtype in vector.items()}

        def one_init(seed, init_scale, active):
            state = steps.init_state(self.model, self.study.optimizer, seed, init_scale)
            return state | {"diverged_step": jnp.where(active, jnp.int32(-1), jnp.int32(0))}

        init = jax.vmap(one_init)
        self.state_shapes = jax.eval_shape(init, *example.values())
        self.state_sharding = jax.tree.map(self._state_sharding, self.state_shapes)
        self._init = jax.jit(init, out_shardings=self.state_sharding)
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=self.state_sharding)
        self._evaluate = jax.jit(self._over_lanes(self._lane_evaluate, 1))
        train = jax.jit(
            self._over_lanes(self._lane_chunk, 3),
            donate_argnums=0,
            out_shardings=(self.state_sharding, self._sharding(P("run"))),
        )
        everywhere, by_lane = self._sharding(P()), self._sharding(P("run"))
        scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
        state = jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            self.state_shapes,
            self.state_sharding,
        )
        hparams = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_lane), self._hparams(self.groups[0], None)
        )
        windows = self.feed.inputs(0, 0, 1, self.batch_size)
        windows = jax.ShapeDtypeStruct((size, self.buffer_steps, *windows.shape[1:]), windows.dtype, sharding=by_lane)
        self.compiled = train.lower(state, hparams, windows, scalar, scalar, self.arrays["train"]).compile()

    def _sharding(self, spec) -> jax.NamedSharding:
        return jax.NamedSharding(self.mesh, spec)

    def _put(self, tree, spec):
        return processes.put(tree, self._sharding(spec))

    def _state_sharding(self, leaf) -> jax.NamedSharding:
        """Lanes over `run`; the largest other axis that `fsdp` divides, over `fsdp`."""
        fsdp = self.mesh.shape["fsdp"]
        axes: list[Any] = ["run"] + [None] * (leaf.ndim - 1)
        if fsdp > 1:
            sizes = [(n, -i) for i, n in enumerate(leaf.shape) if i > 0 and n % fsdp == 0 and n > 1]
            if sizes:
                axes[-max(sizes)[1]] = "fsdp"
        return self._sharding(P(*axes))

    def _hparams(self, group: Sequence[int], phase: Phase | None) -> dict[str, np.ndarray]:
        lanes, schedule = [self.places[i] for i in group], self.study.schedule
        same = np.ones(len(lanes))
        return {
            "learning_rate": np.float32([lane.learning_rate for lane in lanes]),
            "weight_decay": np.float32([lane.weight_decay for lane in lanes]),
            "seed": np.int32([lane.seed for lane in lanes]),
            "warmup_steps": np.float32(schedule.warmup_steps * same),
            "decay_start": np.float32((phase.decay_start if phase else 0) * same),
            "decay_stop": np.float32((phase.decay_stop if phase else 0) * same),
            "final_fraction": np.float32(schedule.final_fraction * same),
        }

    # The face: states are tuples of groups.

    def init(self) -> tuple[Any, ...]:
        """Fresh states of all lanes."""
        out = []
        for group in self.groups:
            seeds = np.int32([self.places[i].seed for i in group])
            scales = np.float32([self.places[i].init_scale for i in group])
            active = np.asarray([i < self.num_lanes for i in group])
            out.append(self._init(*self._put((seeds, scales, active), P("run"))))
        return tuple(out)

    def copy(self, states: tuple[Any, ...]) -> tuple[Any, ...]:
        """A copy that survives the donation of the original: what is branched off, or saved."""
        return tuple(self._copy(state) for state in states)

    def hparams(self, phase: Phase) -> tuple[Any, ...]:
        """The traced hyperparameters of every lane in this phase, on the devices."""
        return tuple(self._put(self._hparams(group, phase), P("run")) for group in self.groups)

    def train(self, states, hparams, first_step: int, num_steps: int):
        """Dispatches `num_steps` updates of every lane; returns at once.

        Returns:
          (states, losses): losses is a tuple of device arrays [lanes of the group, buffer_steps].
        """
        start, count = self._put((np.int32(first_step), np.int32(num_steps)), P())
        inputs: dict[int, np.ndarray] = {}
        new_states, losses = [], []
        for group, state, hps in zip(self.groups, states, hparams):
            for seed in {self.places[i].seed for i in group} - inputs.keys():
                windows = self.feed.inputs(seed, first_step, num_steps, self.batch_size)
                inputs[seed] = np.zeros((self.buffer_steps, *windows.shape[1:]), windows.dtype)
                inputs[seed][:num_steps] = windows
            windows = self._put(np.stack([inputs[self.places[i].seed] for i in group]), P("run"))
            state, loss = self.compiled(state, hps, windows, start, count, self.arrays["train"])
            new_states.append(state)
            losses.append(loss)
        return tuple(new_states), tuple(losses)

    def evaluate(self, states) -> tuple[Any, ...]:
        """Dispatches the validation of every lane; sums by group, stacked by lane, on the devices."""
        return tuple(self._evaluate(state["params"], self.arrays["validation"], self.validation) for state in states)

    def fetch(self, groups: tuple[Any, ...]) -> list[Any]:
        """What was stacked by lane in groups, on the host: one pytree per lane."""
        host = processes.fetch(groups)
        places = [jax.tree.map(lambda x, i=i: x[i], tree) for g, tree in zip(self.groups, host) for i in range(len(g))]
        return places[: self.num_lanes]
