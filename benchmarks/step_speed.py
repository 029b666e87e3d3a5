"""Training steps of byte language models: ours beside a plain loop, and beside compiled PyTorch where it is installed.

    python benchmarks/step_speed.py [--rounds=3] [--seconds=6] [--torch_python=PYTHON]

The plain loop is what one writes first: a Linen decoder (LayerNorm, GELU, softmax over the whole masked square), AdamW,
`jit` of one step on one device that uses every core, a batch from the host and the loss fetched at every step. PyTorch
is the same model through `torch.compile`, one single-threaded process per core. Ours is the engine: one lane per core,
many steps a dispatch. All have the same width, depth, head size, batch and context. Each measurement is a process of
its own, in turn; prints medians of tokens/s over all cores, ratios, and our model FLOP/s as a share of the best that
float32 matmuls on every core at once, measured between them, reached.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

CONTEXT, VOCAB = 128, 256
SHAPES = {16: 2, 32: 2, 64: 3, 128: 4}  # depth by width
ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes per measurement.")
SECONDS = flags.DEFINE_float("seconds", 6.0, "Measured seconds of each process.")
BATCH = flags.DEFINE_integer("batch_size", 16, "Sequences per step.")
WIDTHS = flags.DEFINE_list("widths", [str(w) for w in SHAPES], "Widths to measure.")
TORCH = flags.DEFINE_string("torch_python", sys.executable, "A Python that has PyTorch, NumPy and absl-py.")
WORKER = flags.DEFINE_string("worker", None, "Internal: kind and arguments of the measurement this process makes.")


def head_dim(width: int) -> int:
    return min(32, width)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def tokens() -> np.ndarray:
    """Bytes with the statistics of text: a benchmark needs no better."""
    return np.random.default_rng(0).choice(VOCAB, 1_000_000, p=np.arange(VOCAB, 0, -1) / (VOCAB * (VOCAB + 1) / 2))


def batch(data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    starts = rng.integers(0, len(data) - CONTEXT - 1, BATCH.value)
    return data[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int32)


def steady(step) -> float:
    """Calls a second of `step`, after a warm-up."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < min(2.0, SECONDS.value):
        step()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS.value:
        step()
        count += 1
    return count / (time.perf_counter() - begin)


def plain_model(width: int, depth: int):
    """The decoder one writes first, as a Linen module: tokens [B, T] -> logits [B, T, vocabulary]."""
    import flax.linen as nn
    import jax.numpy as jnp

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            B, T, M = x.shape
            h = nn.LayerNorm(use_bias=False)(x)
            q, k, v = (nn.DenseGeneral((M // head_dim(M), head_dim(M)), use_bias=False)(h) for _ in range(3))
            a = nn.dot_product_attention(q, k, v, mask=nn.make_causal_mask(jnp.ones((B, T))))
            x += nn.DenseGeneral(M, axis=(-2, -1), use_bias=False)(a)
            h = nn.gelu(nn.Dense(4 * M, use_bias=False)(nn.LayerNorm(use_bias=False)(x)))
            return x + nn.Dense(M, use_bias=False)(h)

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(VOCAB, width)(tokens) + nn.Embed(CONTEXT, width)(jnp.arange(CONTEXT))
            for _ in range(depth):
                x = Block()(x)
            return nn.Dense(VOCAB, use_bias=False)(nn.LayerNorm(use_bias=False)(x))

    return Decoder()


def plain_loop(width: int, depth: int, rate):
    """The loop one writes first.

    Args:
      width, depth: of the model.
      rate: learning rate, or an optax schedule.

    Returns:
      (step, loss): `step(batch)` trains on tokens [B, T + 1] and returns the loss as a float; `loss(batch)` only looks.
    """
    import jax
    import jax.numpy as jnp
    import optax

    model = plain_model(width, depth)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
    params = model.init(jax.random.key(0), jnp.zeros((1, CONTEXT), jnp.int32))
    state = {"params": params, "opt": optimizer.init(params)}

    def loss_of(params, x):
        logits = model.apply(params, x[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, x[:, 1:]).mean()

    @jax.jit
    def update(params, opt, x):
        loss, grads = jax.value_and_grad(loss_of)(params, x)
        updates, opt = optimizer.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, loss

    def step(x):
        state["params"], state["opt"], loss = update(state["params"], state["opt"], x)
        return float(loss)

    evaluate = jax.jit(loss_of)
    return step, lambda x: float(evaluate(state["params"], x))


def plain(width: int) -> float:
    """Tokens/s of the plain loop."""
    step, _ = plain_loop(width, SHAPES[width], 1e-3)
    data, rng = tokens(), np.random.default_rng(0)
    return steady(lambda: step(batch(data, rng))) * BATCH.value * CONTEXT


def ours(width: int, lanes: int | None = None, devices: int | None = None, layout: str = "map") -> float:
    """Tokens/s of the engine over all lanes; a lane on every core by default."""
    program, chunk, _ = lane_program(width, lanes, devices, layout)
    return chunks_per_second(program, chunk) * chunk * BATCH.value * CONTEXT * program.num_lanes


def lane_program(width: int, lanes: int | None = None, devices: int | None = None, layout: str = "map"):
    """(the engine's program of these lanes, steps of a dispatch, counts of the scale)."""
    import jax

    from scaling_jax.data.dataset import Dataset
    from scaling_jax.models import Scaling, Transformer
    from scaling_jax.models.family import Spec
    from scaling_jax.planning import Lane
    from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Study
    from scaling_jax.training import hardware
    from scaling_jax.training.feed import ResidentFeed
    from scaling_jax.training.program import LaneProgram, make_mesh

    hardware.use_cpu_devices(devices)
    spec = Spec("tokens", VOCAB, CONTEXT)
    data = tokens().astype(np.uint8)
    study = Study(
        name="speed",
        family=Transformer(head_dim=head_dim(width)),
        ladder=Ladder(widths=(width,), depths=(SHAPES[width],)),
        budgets=Budgets(tokens=(1e9,)),
        optimizer=Optimizer(batch_size=BATCH.value),
        data=Data(context=CONTEXT),
        evaluation=Evaluation(examples=16, batch_size=16),
    )
    counts = study.family.counts(width, SHAPES[width], spec)
    settings = Execution(layout=layout, microbatches=hardware.cpu_parts(counts, CONTEXT, BATCH.value))
    execution = hardware.resolve(settings, width, SHAPES[width], spec, head_dim(width))
    model = study.family.build(width, SHAPES[width], spec, Scaling("mup", width, 32), execution)
    rates = [0.01 * (i + 1) for i in range(lanes or jax.device_count())]
    mesh = make_mesh(jax.devices(), (jax.device_count(), 1, 1))
    feed = ResidentFeed(Dataset(spec, data, data, "d" * 16, 1.0, len(data), {}))
    chunk = max(1, 320 * 64 // (width * BATCH.value))
    program = LaneProgram(model, study, execution, mesh, [Lane(rate, 0.0, 1.0, 0, 100) for rate in rates], feed, chunk)
    return program, chunk, counts


def chunks_per_second(program, chunk: int) -> float:
    """Dispatches a second of `chunk` steps, losses fetched one late as the training loop does."""
    from scaling_jax.planning import Phase

    hparams = program.hparams(Phase("trunk", 0, 10**6, 2**31 - 1, 2**31 - 1, -1))
    state = {"states": program.init(), "step": 0, "pending": None}

    def step():
        state["states"], losses = program.train(state["states"], hparams, state["step"], chunk)
        if state["pending"] is not None:
            program.fetch(state["pending"])
        state["pending"], state["step"] = losses, state["step"] + chunk

    return steady(step)


def torch_process(width: int) -> float:
    """Tokens/s of one compiled single-threaded PyTorch process."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x):
            B, T, M = x.shape
            q, k, v = (y.view(B, T, -1, head_dim(M)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, dim=-1))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(B, T, M))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(CONTEXT, width)
            self.blocks = nn.ModuleList(Block() for _ in range(SHAPES[width]))
            self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, VOCAB, bias=False)

        def forward(self, x):
            h = self.embed(x[:, :-1]) + self.positions.weight
            for block in self.blocks:
                h = block(h)
            return F.cross_entropy(self.head(self.norm(h)).flatten(0, 1), x[:, 1:].flatten())

    model = Decoder()
    loss_of, optimizer = torch.compile(model), torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    data, rng = tokens(), np.random.default_rng(0)

    def step():
        optimizer.zero_grad()
        loss = loss_of(torch.from_numpy(batch(data, rng).astype(np.int64)))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return steady(step) * BATCH.value * CONTEXT


def matmul_peak(size: int) -> float:
    """FLOP/s of a float32 matmul on every core at once, a single-threaded process each."""
    a = np.ones((size, size), np.float32)
    return steady(lambda: a @ a) * 2 * size**3


def start(kind: str, *args: object, core: int | None = None, script: str = __file__) -> subprocess.Popen:
    """A measurement of `script` in a process of its own, on one core where `core` is given."""
    python = TORCH.value if kind == "torch" else sys.executable
    worker = f"--worker={','.join(map(str, (kind, *args)))}"
    command = [python, script, worker, f"--batch_size={BATCH.value}", f"--seconds={SECONDS.value}"]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | (one if core is not None else {})
    if kind == "matmul":  # what these variables name may not be the machine's best kernel
        environment.pop("OPENBLAS_CORETYPE", None)
        environment.pop("OPENBLAS_L2_SIZE", None)
    pin = None if core is None else (lambda: os.sched_setaffinity(0, {core}))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=pin)


def result(*processes: subprocess.Popen) -> float:
    """Sum over processes that run at the same time."""
    out = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a measurement failed")
    return sum(json.loads(text.splitlines()[-1]) for text in out)


def main(argv: list[str]) -> None:
    del argv
    if WORKER.value:
        kind, *args = WORKER.value.split(",")
        measure = {"plain": plain, "ours": ours, "torch": torch_process, "matmul": matmul_peak}[kind]
        print(json.dumps(measure(*(int(x) if x.isdigit() else x for x in args))))
        return
    from scaling_jax.models import Transformer
    from scaling_jax.models.family import Spec

    every = sorted(os.sched_getaffinity(0))
    has_torch = subprocess.run([TORCH.value, "-c", "import torch"], capture_output=True).returncode == 0
    print(f"batch {BATCH.value}, context {CONTEXT}, {cores()} cores; tokens/s, medians of {ROUNDS.value}\n")
    table, peak = {}, 0.0
    for width in map(int, WIDTHS.value):
        table[width] = []
        for _ in range(ROUNDS.value):
            row = {"plain": result(start("plain", width)), "ours": result(start("ours", width))}
            row["torch"] = result(*(start("torch", width, core=core) for core in every)) if has_torch else float("nan")
            peak = max(peak, result(*(start("matmul", 1024, core=core) for core in every)))
            table[width].append(row)
            print(f"d={width}: {', '.join(f'{k} {v:,.0f}' for k, v in row.items())}", file=sys.stderr, flush=True)
    print("| d | L | plain loop | PyTorch | ours | ours / plain | ours / PyTorch | of matmul peak |")
    print("|--:" * 8 + "|")
    for width, rounds in table.items():
        counts = Transformer(head_dim=head_dim(width)).counts(width, SHAPES[width], Spec("tokens", VOCAB, CONTEXT))
        median = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        by_plain, by_torch = (statistics.median(r["ours"] / r[k] for r in rounds) for k in ("plain", "torch"))
        share = median["ours"] * counts.flops_per_token / peak
        print(
            f"| {width} | {SHAPES[width]} | {median['plain']:,.0f} | {median['torch']:,.0f} | {median['ours']:,.0f} "
            f"| {by_plain:.2f} | {by_torch:.2f} | {share:.0%} |"
        )
    print(f"\nmatmul peak: {peak / 1e9:.0f} GFLOP/s, the best seen")


if __name__ == "__main__":
    app.run(main)
