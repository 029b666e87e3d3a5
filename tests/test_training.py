"""Training against a loop written by hand, and every layout, mesh, branch and batch split against each other."""

import dataclasses
import functools
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import packs
import pytest
from bigram import Bigram

from scaling_jax.data import batches
from scaling_jax.models import Transformer
from scaling_jax.planning import NO_DECAY, Phase, make_plan
from scaling_jax.training import layout as layouts
from scaling_jax.training import step as steps
from scaling_jax.training.pace import Pace
from scaling_jax.training.piece import Piece, PieceTrainer, Way

STEPS = 50
PHASE = Phase("branch", 0, STEPS, 30, STEPS, 0)

pytestmark = pytest.mark.usefixtures("optimized")


def reference(study, program, lane, phase=PHASE):
    """(losses, params) of one lane: optax, a batch and a jit call per step, the schedule as a NumPy formula."""
    model, optimizer, data = program.model, study.optimizer, packs.make_dataset()

    def rate(step):
        warm = np.minimum(1, (np.asarray(step) + 1) / study.schedule.warmup_steps)
        left = np.clip((phase.decay_stop - step) / max(phase.decay_stop - phase.decay_start, 1), 0, 1)
        return lane.learning_rate * warm * left

    direction = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)
    if optimizer.name == "sgd":
        direction = optax.trace(optimizer.momentum)
    tx = optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm),
        direction,
        optax.stateless(lambda u, p: jax.tree.map(jnp.multiply, u, model.lr_multipliers)),
        optax.add_decayed_weights(lane.weight_decay, mask=model.decay_mask),
        optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=0.0),
    )
    params = model.init(jax.random.key(lane.seed))
    params = jax.tree.map(lambda p, m: p * lane.init_scale if m else p, params, model.decay_mask)
    state = tx.init(params)

    @jax.jit
    def update(params, state, batch):
        loss, grads = jax.value_and_grad(lambda p: model.loss(p, batch)[0])(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for step in range(STEPS):
        windows = batches.window_starts(lane.seed, step, 1, packs.BATCH, data.num_train_windows)[0]
        T = packs.CONTEXT
        batch = np.stack([data.train[w * T : w * T + T + 1] for w in windows]).astype(np.int32)
        state[-1].hyperparams["learning_rate"] = jnp.float32(rate(step))
        params, state, loss = update(params, state, batch)
        losses.append(float(loss))
    return np.array(losses), params


SWEEP = {
    "rates": (0.005, 0.03),
    "optimizer": {"weight_decays": (0.1,), "init_scales": (0.7,), "clip_norm": 0.5},
    "seeds": (3,),
}


@functools.cache
def by_hand(family):
    """(losses, params) of every lane of SWEEP."""
    study = packs.make_study(family=family, **SWEEP)
    program = packs.make_program(study)
    runs = [reference(study, program, lane) for lane in program.placement.slots]
    losses = np.stack([run[0] for run in runs])
    assert (losses[:, -5:].mean(1) < losses[:, :5].mean(1) - 0.3).all()  # it learns, or equality would say little
    return losses, [run[1] for run in runs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layout", "mesh"),
    [
        *itertools.product([Bigram()], packs.LAYOUTS, [(1, 1, 1)]),
        (Bigram(), "map", (2, 1, 1)),
        (Bigram(), "vmap", (4, 1, 1)),
        (Bigram(), "sequential", (1, 2, 1)),
        (Bigram(), "map", (1, 1, 2)),
        (Bigram(), "map", (1, 2, 2)),
        (Transformer(head_dim=8), "map", (1, 1, 1)),
        (Transformer(head_dim=8), "vmap", (2, 2, 1)),
    ],
)
def test_lanes_are_the_hand_written_loop(family, layout, mesh):
    program = packs.make_program(packs.make_study(family=family, **SWEEP), layout, mesh)
    states, losses = packs.run_phase(program, PHASE)
    wanted_losses, params = by_hand(family)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    for got, wanted in zip(program.fetch(tuple(state["params"] for state in states)), params):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), got, wanted)


def test_sgd_is_the_hand_written_loop():
    study = packs.make_study(rates=(0.3,), optimizer={"name": "sgd", "momentum": 0.8, "weight_decays": (0.01,)})
    program = packs.make_program(study)
    losses = packs.run_phase(program, PHASE)[1]
    wanted = reference(study, program, program.placement.slots[0])[0]
    assert wanted[-5:].mean() < wanted[:5].mean() - 0.1
    np.testing.assert_allclose(losses[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("layout", packs.LAYOUTS)
def test_chunks_of_any_length_are_the_same_bit_by_bit(layout):
    program = packs.make_program(packs.make_study(), layout)
    whole = packs.run_phase(program, PHASE)[1]
    states, parts = program.init(), []
    for first, last in itertools.pairwise((0, 1, 8, 9, 33, STEPS)):
        states, losses = packs.run_phase(program, dataclasses.replace(PHASE, start=first, stop=last), states)
        parts.append(losses)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_microbatches_are_the_whole_batch():
    study = packs.make_study()
    whole = packs.run_phase(packs.make_program(study), PHASE)[1]
    split = packs.make_study(execution={"microbatches": 4})
    np.testing.assert_allclose(packs.run_phase(packs.make_program(split), PHASE)[1], whole, rtol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_accumulate_is_the_mean_over_the_batch(microbatches):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("f4")

    def value_and_grad(w, batch):
        return jax.value_and_grad(lambda w: jnp.mean(jnp.tanh(batch @ w)))(w)

    w = jnp.array([0.3, -1.0, 2.0])
    loss, grad = steps.accumulate(value_and_grad, w, x, microbatches)
    np.testing.assert_allclose(loss, np.mean(np.tanh(x @ w)), atol=1e-7)
    np.testing.assert_allclose(grad, np.mean((1 - np.tanh(x @ w) ** 2)[:, None] * x, axis=0), rtol=1e-5)


@pytest.mark.parametrize("layout", packs.LAYOUTS)
def test_a_branch_is_a_straight_run_of_the_same_schedule(layout, tmp_path):
    # Three budgets off one trunk, against each budget alone: a trunk and its branch are then one run without detours.
    together = packs.make_study(steps=(20, 45, 80))
    (pack,) = make_plan(together, packs.SPEC, "d" * 16)
    results = packs.train(together, tmp_path / "all", packs.make_program(together, layout))
    assert len(results) == 6
    for budget, count in enumerate((20, 45, 80)):
        alone = packs.make_study(steps=(count,))
        program = packs.make_program(alone, layout)
        (pack_alone,) = make_plan(alone, packs.SPEC, "d" * 16)
        for lane in range(2):
            assert pack.run(lane, budget).run_id == pack_alone.run(lane, 0).run_id
        for run_id, row in packs.train(alone, tmp_path / str(count), program).items():
            assert row["loss"] == results[run_id]["loss"]
        # And against the schedule's formula in one piece.
        fork = count - round(0.2 * count)
        states, _ = packs.run_phase(program, Phase("branch", 0, count, fork, count, 0))
        for lane, sums in enumerate(program.fetch(program.evaluate(states))):
            got = results[pack.run(lane, budget).run_id]["loss"]
            np.testing.assert_allclose(got, sums["loss_sum"] / sums["count"], rtol=1e-5)


@pytest.mark.parametrize("name", ["wsd", "cosine", "constant"])
def test_every_schedule_trains_to_every_budget(name, tmp_path):
    study = packs.make_study(steps=(15, 30), rates=(0.02,), schedule={"name": name})
    rows = sorted(packs.train(study, tmp_path).values(), key=lambda row: row["steps"])
    assert [(row["steps"], row["tokens"], row["status"]) for row in rows] == [(15, 480, "done"), (30, 960, "done")]
    assert rows[1]["loss"] < rows[0]["loss"] < np.log(packs.VOCAB)
    program = packs.make_program(study)
    for budget, row in enumerate(rows):
        fork = {"wsd": row["steps"] - row["steps"] // 5, "cosine": 5, "constant": NO_DECAY}[name]
        stop = NO_DECAY if name == "constant" else row["steps"]
        states, _ = packs.run_phase(program, Phase("branch", 0, row["steps"], fork, stop, budget))
        (sums,) = program.fetch(program.evaluate(states))
        np.testing.assert_allclose(row["loss"], sums["loss_sum"] / sums["count"], rtol=1e-5)


def test_a_row_says_what_was_trained(tmp_path):
    study = packs.make_study(steps=(40,), rates=(0.02,), optimizer={"weight_decays": (0.1,)}, seeds=(7,))
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    (row,) = packs.train(study, tmp_path).values()
    run, counts = pack.runs[0], pack.counts
    assert (row["run_id"], row["trunk_id"]) == (run.run_id, run.trunk_id)
    assert (row["width"], row["depth"], row["seed"], row["lr"], row["batch_size"]) == (16, 1, 7, 0.02, packs.BATCH)
    assert row["flops"] == 40 * packs.BATCH * packs.CONTEXT * counts.flops_per_token
    assert row["flops_6nd"] == 6 * counts.params_matmul * 40 * packs.BATCH * packs.CONTEXT
    assert row["epochs"] == 40 * packs.BATCH / packs.make_dataset().num_train_windows
    assert row["unique_tokens"] == packs.make_dataset().unique_tokens
    np.testing.assert_allclose(row["bits_per_byte"], row["loss"] / np.log(2))


def test_on_metrics_gets_plain_dicts_and_its_failure_stops_no_training(tmp_path):
    study = packs.make_study(steps=(45,), rates=(0.01, 0.02))
    program = packs.make_program(study)
    events = []
    rows = packs.train(study, tmp_path / "a", program, on_metrics=events.append)
    assert json.loads(json.dumps(events)) == events
    trained = [event for event in events if event["kind"] == "train"]
    results = {event["run_id"]: event for event in events if event["kind"] == "result"}
    assert {run_id: event["loss"] for run_id, event in results.items()} == {k: row["loss"] for k, row in rows.items()}
    for rate in (0.01, 0.02):
        lane = [event for event in trained if event["lr"] == rate]
        assert lane[-1]["step"] == 45
        assert lane[-1]["tokens"] == 45 * packs.BATCH * packs.CONTEXT
        assert lane[-1]["loss"] < lane[0]["loss"] < 1.2 * np.log(packs.VOCAB)
        assert {event["run_id"] for event in lane if event["phase"] == "branch"} <= set(results)

    def broken(event):
        broken.calls += 1
        raise RuntimeError("the tracker is down")

    broken.calls = 0
    again = packs.train(study, tmp_path / "b", program, on_metrics=broken)
    assert broken.calls == 1
    assert {k: row["loss"] for k, row in again.items()} == {k: row["loss"] for k, row in rows.items()}


def test_a_training_loss_of_exactly_zero_is_a_loss(tmp_path):
    study, seen = packs.make_study(), []
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    lanes = [np.zeros(64, np.float32), np.full(64, np.nan, np.float32)]  # memorized; diverged
    program = types.SimpleNamespace(buffer_steps=64, fetch=lambda losses: losses)
    piece, ways = Piece("branch", (dataclasses.replace(PHASE, lanes=(0, 1)),)), [Way(0, 0.0, 0)]
    trainer = PieceTrainer(pack, program, piece, ways, Pace(study.execution, 64), None, None, lambda *a: seen.append(a))
    trainer._record([0], [40], lanes, 0.0)
    (points,) = (points for points in trainer.points.values() if points)
    assert [point["loss"] for point in points] == [0.0, 0.0]
    (means, *_) = seen[0]
    assert means[0][0] == 0.0 and np.isnan(means[0][1])


def test_the_layout_trial_times_steps_and_not_their_compilation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(layouts, "time", types.SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0]))

    class Trial:
        compiled = False

        def hparams(self, phase):
            return ()

        def init(self):
            return ()

        def train(self, states, hparams, first_step, num_steps):
            now[0] += num_steps * 0.25 + (0 if self.compiled else 1000)
            self.compiled = True
            return states, np.zeros(num_steps)

    (pack,) = make_plan(packs.make_study(), packs.SPEC, "d" * 16)
    assert layouts._time(Trial(), pack) == 0.25
