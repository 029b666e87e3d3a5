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
from scaling_jax.data import batches
from scaling_jax.data.augment import augment_key
from scaling_jax.data.builtin import python_sources
from scaling_jax.models.family import Spec
from scaling_jax.storage import paths
from scaling_jax.study_file import load_study

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
    with tempfile.TemporaryDirectory(dir=paths.cache_dir()) as folder:
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
    """Shares of a training step that its data take, for every scale of a study, from the devices and from the disk.

    From the devices: window numbers on the host, and by how much a step that gathers its batch is slower than one that
    is handed it. From the disk: for how long the loop waits for its batches.
    """
    import jax

    from scaling_jax.models.family import attention_head_dim
    from scaling_jax.models.parametrization import Scaling
    from scaling_jax.planning import make_plan
    from scaling_jax.training import hardware
    from scaling_jax.training.feed import ResidentFeed, StreamFeed
    from scaling_jax.training.program import make_mesh

    study = load_study(path)
    dataset = data.load(study.data)
    batch_size, steps, many = study.optimizer.batch_size, 20, 1_000
    feeds = ResidentFeed(dataset, study.data.augment), StreamFeed(dataset, study.data.augment)
    arrays = feeds[0].arrays(make_mesh(jax.devices()[:1], (1, 1, 1)))["train"]
    inputs = [feed.reader(batch_size)(0, 0, steps) for feed in feeds]
    read = feeds[0].reader(batch_size)
    host = best(lambda: read(0, 0, many)) / many  # the loop asks for the windows of many steps at once
    print(f"{study.name}, batches of {batch_size}; window numbers {host * 1e6:.1f} us a step")
    print("  scale         step   from the devices   from the disk")
    for pack in make_plan(study, dataset.spec):
        head_dim = attention_head_dim(study.family)
        execution = hardware.resolve(study.execution, pack.width, pack.depth, dataset.spec, head_dim)
        scaling = Scaling(study.parametrization.name, pack.width, study.parametrization.base_width)
        model = study.family.build(pack.width, pack.depth, dataset.spec, scaling, execution)
        programs = [_program(model, feed, arrays, steps) for feed in feeds]
        params, seconds = model.init(jax.random.key(0)), [float("inf")] * 2
        for repeat in range(31):  # side by side, so that the machine's other users slow both
            for i, (program, given) in enumerate(zip(programs, inputs)):
                start = time.perf_counter()
                jax.block_until_ready(program(params, given))
                if repeat:
                    seconds[i] = min(seconds[i], (time.perf_counter() - start) / steps)
        share = (host + max(seconds[0] - seconds[1], 0)) / (seconds[0] + host)
        waited = _streamed(feeds[1], batch_size, lambda x, p=params, f=programs[1]: jax.block_until_ready(f(p, x)))
        print(f"  {pack.scale:<8} {seconds[0] * 1e6:6.0f} us {share:18.2%} {waited:15.2%}")


def _program(model, feed, arrays, steps: int):
    """(params, inputs of `steps` steps) -> params, trained on what `feed` makes of them."""
    import jax

    def step(params, numbers):
        given, number = numbers
        batch = feed.make_batch(arrays, given, augment_key(0, number))
        grads = jax.grad(lambda p: model.loss(p, batch)[0])(params)
        return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), None

    return jax.jit(lambda params, given: jax.lax.scan(step, params, (given, np.arange(steps)))[0])


def _streamed(feed, batch_size: int, train, steps: int = 20, rounds: int = 20) -> float:
    """Share of its time that a loop of reading `steps` batches and training on them waits for the batches."""
    read, waited, begin = feed.reader(batch_size), 0.0, 0.0
    for i in range(rounds):
        start = time.perf_counter()
        given = read(0, i * steps, steps)
        if i == 0:  # starts the threads
            begin = time.perf_counter()
        else:
            waited += time.perf_counter() - start
        train(given)
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
