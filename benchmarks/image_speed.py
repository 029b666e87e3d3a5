"""Training steps of residual networks on 28 x 28 images: ours beside a plain Flax and optax loop, and beside PyTorch.

    python benchmarks/image_speed.py [--rounds=2] [--seconds=5] [--batch_size=16] [--torch_python=PYTHON]

The same network in all three: a 3x3 stem, three stages of one pre-activation block of two 3x3 convolutions, GroupNorm,
a linear head; AdamW, gradients clipped. The plain loop is `nn.Conv` and `jit` of one step on one device that uses every
core; PyTorch is `torch.compile` in a single-threaded process per core; ours is the engine, one lane per core. Each
measurement is a process of its own, in turn; prints medians of images/s over all cores, and ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import numpy as np
import step_speed
from absl import app

WIDTHS, STAGES, SIZE, CLASSES, GROUP = (8, 16), 3, 28, 10, 2
BATCH = step_speed.BATCH


def images(count: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, SIZE, SIZE, 1), np.uint8), rng.integers(0, CLASSES, count).astype(np.int32)


def ours(width: int) -> float:
    """Images/s of the engine, a lane on every core."""
    import jax

    from scaling_jax.data.dataset import Dataset
    from scaling_jax.models import CNN
    from scaling_jax.models.family import Spec
    from scaling_jax.planning import make_plan
    from scaling_jax.study import Budgets, Evaluation, Ladder, Optimizer, Study
    from scaling_jax.training import hardware
    from scaling_jax.training.feed import ResidentFeed
    from scaling_jax.training.program import LaneProgram, make_mesh
    from scaling_jax.training.scale import scaling_of

    hardware.use_cpu_devices()
    spec, (pixels, labels) = Spec("images", CLASSES, 1, (SIZE, SIZE, 1)), images()
    study = Study(
        name="speed",
        family=CNN(stages=STAGES, group_size=GROUP, stem_stride=1),
        ladder=Ladder(widths=(width,), depths=(1,)),
        budgets=Budgets(tokens=(1e7,)),
        optimizer=Optimizer(batch_size=BATCH.value),
        evaluation=Evaluation(examples=64, batch_size=64),
        seeds=tuple(range(jax.device_count())),
    )
    (pack,) = make_plan(study, spec)
    mesh = (jax.device_count(), 1, 1)
    execution = hardware.resolve_pack(study, pack, spec, mesh)
    model = study.family.build(width, 1, spec, scaling_of(study, width, 1), execution)
    feed = ResidentFeed(Dataset(spec, pixels, pixels[:64], "d" * 16, 1.0, pixels.nbytes, {}, labels, labels[:64]))
    program = LaneProgram(model, study, execution, make_mesh(jax.devices(), mesh), pack.lanes, feed, 20)
    return step_speed.chunks_per_second(program, 20) * 20 * BATCH.value * jax.device_count()


def plain(width: int) -> float:
    """Images/s of the loop one writes first."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            def conv(x, channels, kernel=3, stride=1):
                return nn.Conv(channels, (kernel, kernel), (stride, stride), use_bias=False)(x)

            def norm(x):
                return nn.relu(nn.GroupNorm(num_groups=None, group_size=GROUP)(x))

            x = conv(x, width)
            for stage in range(STAGES):
                channels, stride, h = width * 2**stage, 1 + (stage > 0), norm(x)
                x = conv(h, channels, 1, stride) if stage else x
                x += conv(norm(conv(h, channels, 3, stride)), channels)
            return nn.Dense(CLASSES)(norm(x).mean((1, 2)))

    model, optimizer = Net(), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    params = model.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))
    state = {"params": params, "opt": optimizer.init(params)}
    (pixels, labels), rng = images(), np.random.default_rng(0)

    @jax.jit
    def update(params, opt, x, y):
        def loss_of(params):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt = optimizer.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, loss

    def step():
        rows = rng.integers(0, len(pixels), BATCH.value)
        x = pixels[rows].astype(np.float32) / 255
        state["params"], state["opt"], loss = update(state["params"], state["opt"], x, labels[rows])
        return float(loss)

    return step_speed.steady(step) * BATCH.value


def torch_process(width: int) -> float:
    """Images/s of one compiled single-threaded PyTorch process."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(1)

    def norm(channels):
        return nn.Sequential(nn.GroupNorm(channels // GROUP, channels), nn.ReLU())

    class Block(nn.Module):
        def __init__(self, inputs, channels, stride):
            super().__init__()
            self.norm1, self.norm2 = norm(inputs), norm(channels)
            self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False) if stride > 1 else None

        def forward(self, x):
            h = self.norm1(x)
            x = x if self.shortcut is None else self.shortcut(h)
            return x + self.conv2(self.norm2(self.conv1(h)))

    sizes = [width * 2**stage for stage in range(STAGES)]
    blocks = [Block(sizes[max(i - 1, 0)], size, 1 + (i > 0)) for i, size in enumerate(sizes)]
    stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
    model = nn.Sequential(
        stem, *blocks, norm(sizes[-1]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], CLASSES)
    ).to(memory_format=torch.channels_last)
    compiled, optimizer = torch.compile(model), torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    (pixels, labels), rng = images(), np.random.default_rng(0)

    def step():
        rows = rng.integers(0, len(pixels), BATCH.value)
        x = torch.from_numpy(pixels[rows].astype(np.float32) / 255).permute(0, 3, 1, 2)
        optimizer.zero_grad()
        loss = F.cross_entropy(compiled(x), torch.from_numpy(labels[rows].astype(np.int64)))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step_speed.steady(step) * BATCH.value


def main(argv: list[str]) -> None:
    del argv
    if step_speed.WORKER.value:
        kind, width = step_speed.WORKER.value.split(",")
        print(json.dumps({"plain": plain, "ours": ours, "torch": torch_process}[kind](int(width))))
        return

    def measured(kind: str, width: int, cores: tuple[int | None, ...] = (None,)) -> float:
        return step_speed.result(*(step_speed.start(kind, width, core=core, script=__file__) for core in cores))

    every = tuple(sorted(os.sched_getaffinity(0)))
    has_torch = subprocess.run([step_speed.TORCH.value, "-c", "import torch"], capture_output=True).returncode == 0
    print(f"batch {BATCH.value}, {len(every)} cores; images/s, medians of {step_speed.ROUNDS.value}\n")
    print("| width | plain loop | PyTorch | ours | ours / plain | ours / PyTorch |\n" + "|--:" * 6 + "|")
    for width in WIDTHS:
        rounds = []
        for _ in range(step_speed.ROUNDS.value):
            row = {kind: measured(kind, width) for kind in ("plain", "ours")}
            rounds.append(row | {"torch": measured("torch", width, every) if has_torch else float("nan")})
            print(rounds[-1], file=sys.stderr, flush=True)
        plain_rate, torch_rate, rate = (statistics.median(r[k] for r in rounds) for k in ("plain", "torch", "ours"))
        by_plain, by_torch = (statistics.median(r["ours"] / r[k] for r in rounds) for k in ("plain", "torch"))
        print(f"| {width} | {plain_rate:,.0f} | {torch_rate:,.0f} | {rate:,.0f} | {by_plain:.2f} | {by_torch:.2f} |")


if __name__ == "__main__":
    app.run(main)
