"""How fast data is read, all ratios measured side by side in one run:

    python benchmarks/data_speed.py [--sparse_gb=10] [--study=experiments/text_quickstart.py ...]

Prints, for sequences of 257 bytes on one core: records of an array_record file, the memory map, and the stream of data
larger than memory (with its resident memory over a sparse file); then, for every scale of the studies, the share of a
training step that waits for its data, from the device (window numbers and gathering) and streamed from the disk.
data_speed.md holds the last measured table.
"""

import itertools
import os
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from scaling_jax import data
from scaling_jax.data import batches, cache, python_sources
from scaling_jax.data.augment import augment_key
from scaling_jax.models.family import Spec
from scaling_jax.study import load_study

SPARSE_GB = flags.DEFINE_float("sparse_gb", 10.0, "Size of the sparse file that is streamed.")
QUICKSTARTS = ["experiments/text_quickstart.py", "experiments/image_quickstart.py"]
STUDIES = flags.DEFINE_multi_string("study", QUICKSTARTS, "Studies whose scales are timed.")
CONTEXT = 256


def best(function, repeats: int = 40) -> float:
    """Seconds of the fastest of many short calls: the other users of the machine only ever slow one down."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def resident_mb() -> float:
    """Resident memory of this process now, its mapped files included."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def first_and_second_load() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        dataset = data.load(data_config(), cache_dir=folder)
        first, cpu = time.perf_counter() - start, time.process_time() - cpu
        second = best(lambda: data.load(data_config(), cache_dir=folder))
    size = (len(dataset.train) + len(dataset.validation)) / 1e6
    print(f"python_sources ({size:.1f} MB): first load {first:.1f} s ({cpu:.1f} s of one core)")
    print(f"  every later load {second * 1e3:.1f} ms")


def data_config():
    from scaling_jax.study import Data

    return Data(context=CONTEXT)


def reading_speed() -> None:
    dataset = data.load(data_config())
    windows = dataset.num_train_windows
    count = 1 << 16
    seconds = best(lambda: batches.window_starts(0, 12_345, count // 64, 64, windows))
    print(f"window_starts: {count / seconds / 1e6:.1f} M windows/s")
    records = record_speed()
    print(f"array_record, one 257-byte record each: {records / 1e3:8.1f} k sequences/s")
    for batch_size in (8, 64, 512):
        source = batches.BatchSource(dataset, 0, batch_size)
        steps, chunk = 4_096 // batch_size, itertools.count()

        def read(source=source, steps=steps, chunk=chunk) -> None:
            first = next(chunk) * steps  # never what an earlier repeat has left in the processor's cache
            for step in range(first, first + steps):
                source[step]

        seconds = best(read)
        rate = steps * batch_size / seconds
        print(f"memory map, batches of {batch_size:<4}: {rate / 1e3:18.1f} k sequences/s ({rate / records:.0f}x)")


def record_speed() -> float:
    """Sequences per second of a shuffled read, one record per sequence, through grain's array_record source."""
    import array_record.python.array_record_module as array_record
    import grain

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/records.array_record"
        writer = array_record.ArrayRecordWriter(path, "group_size:1")
        for row in np.random.default_rng(0).integers(0, 256, (20_000, CONTEXT + 1), dtype=np.uint8):
            writer.write(row.tobytes())
        writer.close()
        source = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(path)).shuffle(seed=0)
        order = source.map(lambda record: np.frombuffer(record, np.uint8).astype(np.int32))
        seconds = best(lambda: [order[i] for i in range(200)])
    return 200 / seconds


def streaming() -> None:
    """Streams batches of a sparse file larger than memory should hold."""
    size = int(SPARSE_GB.value * 1e9)
    with tempfile.TemporaryDirectory(dir=cache.root()) as folder:
        path = pathlib.Path(folder, "train.bin")
        with open(path, "wb") as file:
            file.truncate(size)
        tokens = np.memmap(path, np.uint8, mode="r")
        dataset = data.Dataset(Spec("tokens", 256, CONTEXT), tokens, tokens, "", 1.0, size, {})
        before, batch_size, steps, marks = resident_mb(), 256, 8_000, []
        start = time.perf_counter()
        for i, _ in enumerate(batches.stream(dataset, 0, batch_size, num_steps=steps)):
            if i % (steps // 4) == steps // 4 - 1:
                marks.append(f"{resident_mb():.0f}")
        seconds = time.perf_counter() - start
        print(
            f"stream of a sparse {SPARSE_GB.value:g} GB file: {steps * batch_size / seconds / 1e3:.1f} k sequences/s, "
            f"resident memory {before:.0f} MB before, then after each quarter {', '.join(marks)} MB"
        )


def waiting_share(path: str) -> None:
    """Shares of a training step that its data take, for every scale of a study, from the devices and from the disk."""
    import jax

    from scaling_jax.models.parametrization import Scaling
    from scaling_jax.plan import make_plan
    from scaling_jax.training import device
    from scaling_jax.training.feed import ResidentFeed, StreamFeed
    from scaling_jax.training.lanes import make_mesh

    study = load_study(path)
    dataset = data.load(study.data)
    batch_size, steps = study.optimizer.batch_size, 20
    feed = ResidentFeed(dataset, study.data.augment)
    arrays = feed.arrays(make_mesh(jax.devices()[:1], (1, 1, 1)))["train"]
    many = 1_000  # the training loop asks for the windows of many steps at once
    read, windows = feed.reader(batch_size), feed.reader(batch_size)(0, 0, steps)
    host = best(lambda: read(0, 0, many)) / many

    def batch_of(windows_B, step, augmented):
        key = augment_key(0, step) if augmented and feed.augment else None
        return feed.make_batch(arrays, windows_B, key)

    def making(augmented: bool) -> float:
        """Seconds per step of making its batch on the device."""

        def body(total, numbers):
            made = batch_of(*numbers, augmented)
            return total + sum(x.sum() for x in jax.tree.leaves(made)), None

        program = jax.jit(lambda w: jax.lax.scan(body, 0.0, (w, np.arange(steps)))[0])
        program(windows).block_until_ready()
        return best(lambda: program(windows).block_until_ready()) / steps

    gathering, whole = making(False), making(True)
    print(
        f"{study.name}, batches of {batch_size}: {host * 1e6:.1f} us of host and {gathering * 1e6:.1f} us of gathering"
    )
    if feed.augment:
        print(f"  cropping and flipping, on the device: {(whole - gathering) * 1e6:.1f} us")
    print("  scale         step   from the device   from the disk")
    for pack in make_plan(study, dataset.spec):
        head_dim = getattr(study.family, "head_dim", None)
        execution = device.resolve(study.execution, pack.width, pack.depth, dataset.spec, head_dim)
        scaling = Scaling(study.parametrization.name, pack.width, study.parametrization.base_width)
        model = study.family.build(pack.width, pack.depth, dataset.spec, scaling, execution)
        params = model.init(jax.random.key(0))

        def step(params, numbers, model=model):
            grads = jax.grad(lambda p: model.loss(p, batch_of(*numbers, True))[0])(params)
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), None

        train = jax.jit(lambda p, w, step=step: jax.lax.scan(step, p, (w, np.arange(steps)))[0])
        jax.block_until_ready(train(params, windows))
        seconds = best(lambda train=train, params=params: jax.block_until_ready(train(params, windows)), 10) / steps
        waited = streamed(StreamFeed(dataset), batch_size, lambda: jax.block_until_ready(train(params, windows)), steps)
        share = (host + gathering) / (seconds + host)
        print(f"  {pack.scale:<8} {seconds * 1e6:6.0f} us {share:17.2%} {waited:15.2%}")


def streamed(feed, batch_size: int, train, steps: int, rounds: int = 20) -> float:
    """Share of the time that a loop of reading `steps` batches and training on as many waits for the batches."""
    read, waited, begin = feed.reader(batch_size), 0.0, time.perf_counter()
    for i in range(rounds):
        start = time.perf_counter()
        read(0, i * steps, steps)
        if i:  # the first read starts the threads
            waited += time.perf_counter() - start
        else:
            begin = time.perf_counter()
        train()
    return waited / (time.perf_counter() - begin)


def main(_) -> None:
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"packages read: {len(python_sources.installed())}; cores: {len(os.sched_getaffinity(0))}; load {load}")
    first_and_second_load()
    reading_speed()
    streaming()
    for study in STUDIES.value:
        waiting_share(study)


if __name__ == "__main__":
    app.run(main)
