"""CPU seconds and memory of `scaling-jax fit` of a table of others, the whole process, by its number of rows:

    python benchmarks/table_speed.py [--rows=240,100000,1000000]

Chinchilla's law with 1% noise, twice: every row of a size and budget of its own, and 40 sizes with many points each.
The fit, all checks, the forecast and five figures are made, as for a user.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import numpy as np
from absl import app, flags
from plan_speed import measure

ROWS = flags.DEFINE_list("rows", ["240", "100000", "1000000"], "Rows of the tables.")


def write_table(path: pathlib.Path, rows: int, sizes: int | None) -> None:
    """Writes params, tokens and loss; of `sizes` sizes, or each row of its own."""
    rng = np.random.default_rng(0)
    N = 10 ** rng.uniform(7, 10, rows) if sizes is None else np.resize(np.geomspace(1e7, 1e10, sizes), rows).round()
    D = 10 ** rng.uniform(9, 12, rows)
    loss = (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(0.01 * rng.standard_normal(rows))
    np.savetxt(path, np.c_[N, D, loss], delimiter=",", fmt="%.10g", header="params,tokens,loss", comments="")


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "runs.csv"
        command = (sys.executable, "-m", "scaling_jax", "fit", f"--results={path}", f"--out={folder}/fit.json")
        for rows in map(int, ROWS.value):
            for sizes in (None, 40):
                write_table(path, rows, sizes)
                seconds, mib, _ = measure(*command)
                kind = "a size each" if sizes is None else f"{sizes} sizes"
                print(f"{rows:,} rows, {kind}: {seconds:.1f} s of CPU, {mib:.0f} MiB", flush=True)


if __name__ == "__main__":
    app.run(main)
