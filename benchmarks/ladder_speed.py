"""A whole ladder beside a script that starts one process per run: 4 scales x 4 learning rates x 4 token budgets.

    python benchmarks/ladder_speed.py [--share=0.25]

Ours is `scaling-jax run` from an empty compilation cache to the report. The script trains every run by step_speed.py's
plain loop, in a process of its own that uses every core, with a cosine schedule to its budget, and evaluates it on the
same validation set. `--share` of the learning rates are run by the script and its time is scaled up: the rate changes
no time. Prints wall seconds and the best validation loss of each scale at the largest budget, whose ways of training
differ (architecture, schedule, rates) but whose tables have the same rows.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import step_speed
from absl import app, flags

SHARE = flags.DEFINE_float("share", 0.25, "Share of the learning rates that the script runs.")
RUN = flags.DEFINE_string("run", None, "Internal: folder, width, depth, tokens and rate of the run of this process.")
SCALES = {16: 2, 32: 2, 48: 2, 64: 2}
BUDGETS = (100_000, 200_000, 400_000, 800_000)
OUR_RATES, PLAIN_RATES = (0.007, 0.014, 0.02, 0.028), (4e-3, 2e-3, 8e-3, 1e-3)
BATCH, VALIDATION = 4, 256
STUDY = f"""
from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Ladder, Optimizer, Schedule, Study


def get_study():
    return Study(
        name="ladder_speed",
        family=Transformer(head_dim=16),
        ladder=Ladder(widths={tuple(SCALES)}, depths={tuple(SCALES.values())}),
        budgets=Budgets(tokens={BUDGETS}),
        optimizer=Optimizer(learning_rates={OUR_RATES}, batch_size={BATCH}),
        schedule=Schedule(warmup_steps=50),
        data=Data(source="python_sources", context={step_speed.CONTEXT}),
        evaluation=Evaluation(examples={VALIDATION}),
    )
"""


def one_run(folder: str, width: int, depth: int, tokens: int, rate: float) -> float:
    """Validation loss of the plain loop after `tokens` tokens."""
    import optax

    data = {part: np.load(os.path.join(folder, f"{part}.npy"), mmap_mode="r") for part in ("train", "validation")}
    steps, length = tokens // (BATCH * step_speed.CONTEXT), step_speed.CONTEXT + 1
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 50, steps)
    step, loss = step_speed.plain_loop(width, depth, schedule)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        step(step_speed.batch(data["train"], rng))
    windows = np.stack([data["validation"][i * (length - 1) :][:length] for i in range(VALIDATION)]).astype(np.int32)
    return float(np.mean([loss(part) for part in np.split(windows, VALIDATION // 64)]))


def main(argv: list[str]) -> None:
    del argv
    flags.FLAGS.batch_size = BATCH
    if RUN.value:
        folder, *numbers, rate = RUN.value.split(",")
        print(json.dumps(one_run(folder, *map(int, numbers), float(rate))))
        return
    from scaling_jax import data
    from scaling_jax.storage.records import load_table
    from scaling_jax.study_file import load_study

    folder = pathlib.Path(tempfile.mkdtemp(prefix="ladder_speed"))
    (folder / "study.py").write_text(STUDY)
    dataset = data.load(load_study(str(folder / "study.py")).data)  # materialized once, for both
    for part in ("train", "validation"):
        np.save(folder / f"{part}.npy", getattr(dataset, part))

    command = [sys.executable, "-m", "scaling_jax", "run", f"--study={folder}/study.py", f"--workdir={folder}/work"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    begin = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    ours = time.perf_counter() - begin

    rates = PLAIN_RATES[: max(1, round(SHARE.value * len(PLAIN_RATES)))]
    losses, begin = {}, time.perf_counter()
    for width, depth in SCALES.items():
        for tokens in BUDGETS:
            for rate in rates:
                run = f"--run={folder},{width},{depth},{tokens},{rate}"
                out = subprocess.run([sys.executable, __file__, run], check=True, capture_output=True, text=True).stdout
                losses[width, tokens, rate] = json.loads(out.splitlines()[-1])
    script = (time.perf_counter() - begin) * len(PLAIN_RATES) / len(rates)

    table = load_table(str(folder / "work"))
    number = len(SCALES) * len(BUDGETS) * len(PLAIN_RATES)
    assert len(table) == number
    print(f"\n{number} runs: ours {ours:.0f} s, one process per run {script:.0f} s: {script / ours:.1f}x\n")
    print(f"| d | best loss, ours | best loss, script ({len(rates)} of {len(PLAIN_RATES)} rates) |\n|--:|--:|--:|")
    for width in SCALES:
        best = table[(table.width == width) & (table.tokens == table.tokens.max())].loss.min()
        theirs = min(loss for (w, t, _), loss in losses.items() if (w, t) == (width, BUDGETS[-1]))
        print(f"| {width} | {best:.3f} | {theirs:.3f} |")


if __name__ == "__main__":
    app.run(main)
