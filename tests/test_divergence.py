"""A lane that diverges is frozen and marked; its neighbours never notice, bit by bit."""

import itertools
import math

import jax
import numpy as np
import optax
import packs
import pytest

from scaling_jax.data import batches
from scaling_jax.planning import NO_DECAY, Lane, Phase, make_plan

PHASE = Phase("trunk", 0, 40, NO_DECAY, NO_DECAY, -1)
LATER = Phase("trunk", 40, 60, NO_DECAY, NO_DECAY, -1)
HEALTHY = Lane(0.02, 0.1, 1.0, 0, 5)
SICK = {
    "absurd rate": Lane(1e5, 0.1, 1.0, 0, 5),
    "decay that explodes": Lane(0.02, 1e4, 1.0, 0, 5),
    "not finite from the start": Lane(0.02, 0.1, 1e30, 0, 5),
}


@pytest.mark.parametrize(("layout", "mesh"), [*itertools.product(packs.LAYOUTS, [(1, 1, 1)]), ("map", (2, 1, 1))])
def test_neighbours_are_what_they_would_be(layout, mesh):
    study = packs.make_study()

    def train(middle):
        # Lanes are data: the same program takes the healthy and the sick.
        program.placement.slots = (Lane(0.01, 0.1, 1.0, 1, 5), middle, HEALTHY, *program.placement.slots[3:])
        states, losses = packs.run_phase(program, PHASE)
        states_later, _ = packs.run_phase(program, LATER, program.copy(states))
        return program.fetch(states), losses, program.fetch(states_later)

    program = packs.make_program(study, layout, mesh, lanes=(Lane(0.01, 0.1, 1.0, 1, 5), HEALTHY, HEALTHY))
    undisturbed, wanted, _ = train(HEALTHY)
    assert [int(lane["diverged_step"]) for lane in undisturbed] == [-1, -1, -1]
    for sick in SICK.values():
        lanes, losses, later = train(sick)
        for i in (0, 2):
            np.testing.assert_array_equal(losses[i], wanted[i])
            jax.tree.map(np.testing.assert_array_equal, lanes[i], undisturbed[i])
        diverged = int(lanes[1]["diverged_step"])
        assert 0 <= diverged < PHASE.stop
        limit = study.optimizer.max_loss_factor * math.log(packs.VOCAB)
        assert (losses[1][:diverged] <= limit).all()
        assert not losses[1][diverged] <= limit
        jax.tree.map(np.testing.assert_array_equal, later[1], lanes[1])  # frozen


@pytest.mark.slow
def test_results_say_which_diverged_and_when(tmp_path):
    study = packs.make_study(steps=(20, 40), rates=(0.01, 1e5, 0.02))
    rows = packs.train(study, tmp_path / "sick")
    healthy = packs.train(packs.make_study(steps=(20, 40), rates=(0.01, 0.03, 0.02)), tmp_path / "healthy")
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    for lane, budget in itertools.product(range(3), range(2)):
        run_id = pack.run(lane, budget).run_id
        row = rows[run_id]
        if lane == 1:
            # The trunk diverged, so every budget that branches off it later has, too.
            assert row["status"] == "diverged"
            assert 0 <= row["diverged_step"] < 16
            assert row["loss"] is None
            assert "bits_per_byte" not in row
        else:
            assert row["status"] == "done"
            assert row["diverged_step"] is None
            assert row["loss"] == healthy[run_id]["loss"]


@pytest.mark.slow
def test_a_loss_beyond_the_limit_is_divergence(tmp_path):
    # The limit is a multiple of ln(vocabulary); a limit below the first loss stops every lane at step 0.
    study = packs.make_study(optimizer={"max_loss_factor": 0.5})
    assert {row["diverged_step"] for row in packs.train(study, tmp_path).values()} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["map", "vmap"])
def test_spikes_are_skipped_as_by_hand(layout):
    factor = 2.0  # so tight that many updates are skipped
    study = packs.make_study(
        rates=(0.02,), optimizer={"spike_policy": "skip", "spike_factor": factor, "clip_norm": 0.0}
    )
    program = packs.make_program(study, layout)
    states, losses = packs.run_phase(program, PHASE)
    model, data, optimizer = program.model, packs.make_dataset(), study.optimizer
    tx = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)
    params = model.init(jax.random.key(0))
    state, mean, skipped, wanted = tx.init(params), 0.0, 0, []
    value_and_grad = jax.jit(jax.value_and_grad(lambda p, batch: model.loss(p, batch)[0]))
    for step in range(PHASE.stop):
        windows = batches.window_starts(0, step, 1, packs.BATCH, data.num_train_windows)[0] * packs.CONTEXT
        batch = np.stack([data.train[w : w + packs.CONTEXT + 1] for w in windows]).astype(np.int32)
        loss, grads = value_and_grad(params, batch)
        wanted.append(float(loss))
        norm = float(np.sqrt(sum(np.sum(np.square(np.float64(g))) for g in jax.tree.leaves(grads))))
        if mean and norm > factor * mean:
            skipped += 1
            continue
        mean = norm if mean == 0 else 0.98 * mean + 0.02 * norm
        rate = 0.02 * min(1, (step + 1) / study.schedule.warmup_steps)
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(lambda p, u, m, rate=rate: p - rate * m * u, params, updates, model.lr_multipliers)
    assert 3 < skipped < PHASE.stop - 10
    np.testing.assert_allclose(losses[0], wanted, rtol=1e-5)
    assert int(program.fetch(states)[0]["diverged_step"]) == -1
