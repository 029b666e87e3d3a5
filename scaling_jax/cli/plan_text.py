"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from scaling_jax.engines.progress import clock, si
from scaling_jax.models.family import Spec, attention_head_dim
from scaling_jax.planning import Pack, memory_bytes, phases
from scaling_jax.study import Study
from scaling_jax.training import hardware
from scaling_jax.training.build import mesh_shape

# Share of the peak that a plan assumes before anything was measured: see benchmarks/.
ASSUMED_SHARE = {"cpu": 0.3, "gpu": 0.4, "tpu": 0.4}


def plan_text(study: Study, packs: Sequence[Pack], spec: Spec) -> str:
    """One row per scale and budget, and the totals."""
    import jax

    backend = jax.default_backend()
    peak, source = hardware.peak_flops()
    share = ASSUMED_SHARE.get(backend, 0.3)
    head = (
        f"{'scale':<10}{'width':>6}{'depth':>6}{'N':>9}{'D':>9}{'D/N':>8}{'C':>10}{'steps':>8}{'memory':>9}{'time':>8}"
    )
    lines = [head, "-" * len(head)]
    for pack in packs:
        execution = hardware.resolve(study.execution, pack.width, pack.depth, spec, attention_head_dim(study.family))
        memory = memory_bytes(study, pack, spec, mesh_shape(pack, study, jax.device_count()), execution)
        marginal = _marginal_steps(study, pack)
        for budget, steps in enumerate(pack.budgets):
            run = pack.run(0, budget)
            n = pack.counts.params_non_embedding
            seconds = marginal[budget] * pack.tokens_per_step * pack.counts.flops_per_token * len(pack.lanes)
            lines.append(
                f"{pack.scale:<10}{pack.width:>6}{pack.depth:>6}{si(n):>9}{si(run.tokens):>9}{run.tokens / n:>8.4g}"
                f"{run.flops:>10.3g}{steps:>8}{_bytes(memory):>9}{clock(seconds / (share * peak)):>8}"
            )
    total = sum(pack.trained_flops for pack in packs)
    runs = sum(len(pack.runs) for pack in packs)
    alone = sum(run.flops for pack in packs for run in pack.runs)
    lines += [
        "-" * len(head),
        f"{runs} runs in {len(packs)} packs, {len(packs[0].lanes)} lanes each; N without embeddings; "
        f"C exact, attention included.",
        f"{total:.3g} FLOPs to train ({alone / total:.2f}x less than separate runs), about "
        f"{clock(total / (share * peak))} at {100 * share:.0f}% of {si(peak)}FLOP/s ({source}).",
    ]
    return "\n".join(lines)


def _marginal_steps(study: Study, pack: Pack) -> list[int]:
    """Steps that each budget adds to those before it."""
    out, since = [], 0
    for phase in phases(study.schedule, pack.budgets):
        since += phase.stop - phase.start
        if phase.kind == "branch":
            out.append(since)
            since = 0
    return out


def _bytes(value: float) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}B"
