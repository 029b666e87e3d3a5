"""CPU seconds and memory of `scaling-jax plan` of a study of 100,000 runs, the whole process:

    python benchmarks/plan_speed.py [--seeds=10]

10 widths x 10 budgets x 10 learning rates x 10 weight decays x `--seeds`. The data is described from the cache, as
every command after the first does.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

SEEDS = flags.DEFINE_integer("seeds", 10, "Seeds; 10 make 100,000 runs.")
STUDY = """
from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Ladder, Optimizer, Study


def get_study():
    return Study(
        name="plan_speed",
        family=Transformer(head_dim=16),
        ladder=Ladder(widths=tuple(range(16, 176, 16)), depths=(2,)),
        budgets=Budgets(tokens=tuple(1_000_000 * 2**i for i in range(10))),
        optimizer=Optimizer(
            learning_rates=tuple(0.001 * (i + 1) for i in range(10)), weight_decays=tuple(0.01 * i for i in range(10))
        ),
        seeds=tuple(range({seeds})),
        data=Data(source="python_sources", context=128),
    )
"""


def measure(*command: str) -> tuple[float, float, bytes]:
    """(CPU seconds, peak MiB, stdout) of a process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    out = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the command failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        study = pathlib.Path(folder) / "study.py"
        study.write_text(STUDY.format(seeds=SEEDS.value))
        command = (sys.executable, "-m", "scaling_jax", "plan", f"--study={study}", "--force")
        measure(*command)  # fills the caches
        for name, of in (("import scaling_jax.cli.plan", (sys.executable, "-c", "import scaling_jax.cli.plan")),
                         ("scaling-jax plan", command)):  # fmt: skip
            seconds, mib, out = measure(*of)
            print(f"{name}: {seconds:.1f} s of CPU, {mib:.0f} MiB")
    print(next(line for line in out.decode().splitlines() if " runs in " in line))


if __name__ == "__main__":
    app.run(main)
