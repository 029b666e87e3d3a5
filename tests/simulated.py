"""A results table and learning curves as a ladder would leave them, from a law that is known."""

import hashlib

import numpy as np
import pandas as pd

TRUTH = {"E": 1.2, "A": 12.0, "B": 95.0, "alpha": 0.32, "beta": 0.34}
WIDTHS = (16, 32, 48, 64, 96)
FLOPS = (1e12, 3e12, 9e12)
TOKENS = (2e6, 8e6)
RATES = (0.01, 0.02)
CONTEXT, DEPTH, BATCH = 128, 2, 8


def loss(N, D):
    """The law that the table follows."""
    return TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]


def flops_per_token(width):
    """Matmuls of blocks and head, and causal attention: dearer than 6 N by more where the width is small."""
    return 6 * matmul_params(width) + 3 * DEPTH * 4 * (CONTEXT + 1) / 2 * width


def matmul_params(width):
    return 12 * DEPTH * width**2 + 256 * width


def ladder(noise=1e-3, seeds=(0,), widths=WIDTHS, flops=FLOPS, tokens=TOKENS, rates=RATES, rng_seed=0):
    """The results table of a ladder whose every scale is trained to every budget; the last rate is the best."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for width in widths:
        n, per_token = matmul_params(width), flops_per_token(width)
        for budget in sorted([*(c / per_token for c in flops), *tokens]):
            steps = round(budget / (BATCH * CONTEXT))
            if steps < 100:
                continue
            trained = steps * BATCH * CONTEXT
            for rate in rates:
                for seed in seeds:
                    trunk = (width, rate, seed)
                    final = loss(n, trained) * (1 + 0.02 * (rate != rates[-1])) * np.exp(rng.normal(0, noise))
                    rows.append(
                        {
                            "run_id": hashlib.sha256(repr((*trunk, steps)).encode()).hexdigest()[:16],
                            "study": "simulated", "family": "transformer", "scale": f"w{width}-d{DEPTH}",
                            "width": width, "depth": DEPTH, "seed": seed, "status": "done", "lr": rate,
                            "batch_size": BATCH, "params_total": n + 256 * width,
                            "params_non_embedding": n - 256 * width, "params_matmul": n, "tokens": trained,
                            "flops": trained * per_token, "flops_6nd": 6.0 * n * trained, "loss": final,
                            "dataset_hash": "d" * 16, "code_version": "test", "wall_s": 1.0, "device": "cpu",
                            "bits_per_byte": final / np.log(2), "trunk_id": repr(trunk), "steps": steps,
                            "tokens_per_s": 1e5,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def curves(table, points=60, noise=0.004, rng_seed=1):
    """Training losses of every run: a trunk above the law, then a cool-down onto it over the last fifth."""
    rng = np.random.default_rng(rng_seed)
    parts = []
    for run in table.to_dict("records"):
        step = np.unique(np.geomspace(5, run["steps"], points).round())
        tokens = step * BATCH * CONTEXT
        cooled = np.clip(step / run["steps"] - 0.8, 0, None) / 0.2
        value = np.minimum(np.log(256), loss(run["params_matmul"], tokens)) * (1 + 0.04 * (1 - cooled))
        parts.append(
            pd.DataFrame(
                {
                    "run_id": run["run_id"],
                    "step": step,
                    "tokens": tokens,
                    "flops": tokens * run["flops"] / run["tokens"],
                    "loss": value * np.exp(rng.normal(0, noise, step.size)),
                    "phase": np.where(cooled > 0, "branch", "trunk"),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
