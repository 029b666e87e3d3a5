"""Feeds: streamed batches train as resident ones do, and a process reads only the rows that its devices hold."""

import dataclasses

import jax
import numpy as np
import pytest
from packs import make_dataset, make_program, make_study, run_phase

from scaling_jax.data import batches
from scaling_jax.errors import UserError
from scaling_jax.planning import Phase
from scaling_jax.study import Execution
from scaling_jax.training import distributed
from scaling_jax.training import feed as feeds
from scaling_jax.training.feed import ResidentFeed, StreamFeed, make_feed
from scaling_jax.training.program import make_mesh

BATCH = 8


@pytest.mark.slow
def test_streamed_batches_train_as_resident_ones():
    """Two seeds, through chunks of several sizes and a step back, on a mesh that splits the batch: bit by bit."""
    study = make_study(rates=(0.01,), seeds=(0, 3))
    losses, evaluated = [], []
    for feed in (ResidentFeed(make_dataset()), StreamFeed(make_dataset())):
        program = make_program(study, mesh=(1, 2, 1), feed=feed, steps=16)
        states, pieces = program.init(), []
        for first, count in ((0, 16), (16, 3), (19, 16), (8, 5)):
            states, loss = run_phase(program, Phase("trunk", first, first + count, 2**31 - 1, 2**31 - 1, -1), states)
            pieces.append(loss)
        losses.append(np.concatenate(pieces, axis=1))
        evaluated.append(program.fetch(program.evaluate(states)))
    np.testing.assert_array_equal(losses[0], losses[1])
    assert evaluated[0] == evaluated[1]
    assert np.unique(losses[0]).size > 70, "80 losses that are compared are not constant"


class Share:
    """What `local_rows` asks a sharding: the slices of the batch on this process's devices."""

    def __init__(self, *slices):
        self._slices = slices

    def addressable_devices_indices_map(self, shape):
        return {device: (part,) for device, part in enumerate(self._slices)}


@pytest.mark.parametrize(
    "slices, expected",
    [
        ([slice(4, 8)], [4, 5, 6, 7]),
        ([slice(4, 6), slice(4, 6), slice(6, 8)], [4, 5, 6, 7]),  # two lanes, on devices side by side
        ([slice(6, 8), slice(0, 2)], [0, 1, 6, 7]),  # the end of one lane's batch and the beginning of the next one's
        ([slice(None)], [*range(BATCH)]),
    ],
)
@pytest.mark.parametrize("kind", [ResidentFeed, StreamFeed])
def test_a_process_reads_only_the_rows_of_its_devices(monkeypatch, kind, slices, expected):
    monkeypatch.setattr(distributed, "is_single_process", lambda: False)
    rows = distributed.local_rows(Share(*slices), BATCH)
    assert list(rows) == expected
    feed, read = kind(make_dataset()), []
    monkeypatch.setattr(batches, "_reader", _recorded(batches._reader, read))
    part = feed.reader(BATCH, rows)(1, 5, 3)
    assert all(len(numbers) == len(expected) for numbers in read), "records that were read for one batch"
    np.testing.assert_array_equal(part, feed.reader(BATCH)(1, 5, 3)[:, expected])


def _recorded(reader, read):
    """`batches._reader`, with a list that gets the record numbers of every batch."""

    def make(*args):
        records = reader(*args)
        return lambda numbers: read.append(numbers) or records(numbers)

    return make


def test_one_process_has_every_row():
    mesh = make_mesh(jax.devices(), (1, 2, 2))
    sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    assert distributed.local_rows(sharding, BATCH) == slice(None)


def test_auto_streams_what_would_fill_the_devices(monkeypatch):
    dataset = make_dataset()
    held = dataset.train.nbytes + dataset.validation.nbytes
    monkeypatch.setattr(feeds, "device_memory", lambda: 4 * held)
    assert isinstance(make_feed(dataset, Execution()), ResidentFeed)
    monkeypatch.setattr(feeds, "device_memory", lambda: 4 * held - 1)
    assert isinstance(make_feed(dataset, Execution()), StreamFeed)
    assert isinstance(make_feed(dataset, Execution(feed="resident")), ResidentFeed)
    monkeypatch.setattr(feeds, "MAX_RESIDENT_ITEMS", dataset.train.size - 1)
    assert isinstance(make_feed(dataset, Execution()), StreamFeed)
    with pytest.raises(UserError, match="use 'stream'"):
        make_feed(dataset, dataclasses.replace(Execution(), feed="resident"))
