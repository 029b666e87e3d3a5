"""Checks of the table: are these comparable, finished runs, counted in plain units?"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from scaling_jax.analysis.checks.base import CANNOT_TELL, FAIL, MAX_GROUPS, PASS, WARN, Check, Evidence, direction
from scaling_jax.analysis.frames import groups_of, rows_of
from scaling_jax.analysis.runs import ONE_EPOCH
from scaling_jax.analysis.status import DIVERGED, FAILED
from scaling_jax.analysis.tuned import is_tuned
from scaling_jax.analysis.units import odd_flops
from scaling_jax.text import listed, plural, short

MAX_EPOCHS = 4.0  # Muennighoff et al. 2023, arXiv:2305.16264: until then repeats are worth almost what new data are
MIN_STEPS = 150
MAX_EMBEDDING = 0.4  # share of all parameters at the largest scale
MAX_LOST = 0.1  # share of runs that may be lost to divergence without doubt about the tuning
COPIES = 3  # places where two seeds agree in every digit
MIN_SCALES, OFF_SEED, UNLIKELY_SEED = 3, 0.01, 0.01  # when a seed is off the others
STEPS = ("steps", "total_steps", "num_steps", "num_iterations", "train_steps", "iterations")


def units(e: Evidence) -> Check:
    """N, D and C are counts, not millions of them."""
    name, suspect = "N, D and C are counts", e.runs.suspect_units
    if not suspect and not e.runs.ours and (odd := odd_flops(e.runs.chosen, e.runs.names)):
        return Check(name, WARN, odd)
    return Check(name, FAIL if suspect else PASS, suspect or "plain counts", decisive=True)


def one_row_per_run(e: Evidence) -> Check:
    """Neither a sweep over a tuned quantity nor a learning curve is taken for runs of their own."""
    name, sweep = "one row per run", e.runs.sweep
    if e.runs.curves:
        return Check(name, FAIL, e.runs.curves)
    if sweep is None:
        return Check(name, PASS, "no rows differ in a tuned quantity alone")
    differs = f"in {sweep.column}" if sweep.column else "in nothing that the table names"
    detail = (
        f"{sweep.groups} of {sweep.cells} (N, D) have several rows that differ {differs}, with losses up to "
        f"{sweep.spread:.1%} apart"
    )
    if sweep.best_taken:
        return Check(name, PASS, f"{detail}: the best of each is taken")
    way = "a sweep, not runs of their own; take the best of each with --best"
    if sweep.column and not is_tuned(sweep.column):
        way = f"fit one at a time with --where='{sweep.column}=...', or, if it was tuned, take the best with --best"
    return Check(name, FAIL, f"{detail}: {way}")


def repeats_of_seeds(e: Evidence) -> Check:
    """Runs that differ by their seed are different runs, scored alike."""
    name, chosen = "seeds are repeats", e.runs.chosen
    if not (chosen.y > 0).all():
        return Check(name, CANNOT_TELL, "no positive loss")
    logs = chosen.assign(y=np.log(chosen.y))
    wide = logs.pivot_table(index=["scale", "D"], columns="seed", values="y", aggfunc="mean")
    for one, other in itertools.combinations(wide.columns, 2):
        pair = wide[[one, other]].dropna()
        if len(pair) >= COPIES and (pair[one] == pair[other]).all():
            detail = f"seeds {one} and {other} have the same losses in all {len(pair)} places: one run is counted twice"
            return Check(name, FAIL, f"{detail}, and seeds seem to differ less than they do")
    off = wide.sub(wide.mean(axis=1), axis=0)[wide.notna().sum(axis=1) > 1]
    by_scale = off.groupby(level="scale").mean()  # the branches of a trunk are not independent
    if len(by_scale) < MIN_SCALES or wide.shape[1] < 2:
        return Check(name, CANNOT_TELL if wide.shape[1] < 2 else PASS, f"{len(by_scale)} scales with several seeds")
    from scipy.special import stdtr  # takes long to import, and training needs none of it

    values = by_scale.to_numpy(float)
    sizes, counts = np.nanmean(values, axis=0), np.isfinite(values).sum(axis=0)
    freedom = max(int(counts.sum()) - max(len(sizes) - 1, 1), 1)
    scatter = np.sqrt(np.nansum((values - sizes) ** 2) / freedom)
    chance = len(sizes) * 2 * stdtr(counts - 1, -np.abs(sizes) / np.maximum(scatter / np.sqrt(counts), 1e-4))
    worst = int(np.argmax(np.abs(sizes)))
    others = float(sizes[worst]) * len(sizes) / (len(sizes) - 1)  # against the others' mean, not that of all
    if abs(others) > OFF_SEED and chance[worst] < UNLIKELY_SEED:
        where = f"seed {wide.columns[worst]} is {direction(others)} the others at {counts[worst]} scales"
        return Check(name, WARN, f"{where}: other data, or scored otherwise?")
    return Check(name, PASS, f"no seed is off the others at all scales ({plural(wide.shape[1], 'seed')})")


def finished(e: Evidence) -> Check:
    """Every run finished."""
    lost = {s: e.runs.of_status(s) for s in (DIVERGED, FAILED)}
    parts = [f"{len(rows)} {s} ({_by_rate(rows)})" for s, rows in lost.items() if len(rows)]
    count = sum(map(len, lost.values()))
    ids = tuple(str(i) for rows in lost.values() for i in rows.run_id)
    if not count:
        return Check("every run finished", PASS, plural(len(e.runs.table), "run"))
    # A rate that diverged is part of bracketing; a cell without any finished run is a hole in the ladder.
    done = set(zip(e.runs.chosen.scale, e.runs.chosen.D))
    holes = {(r.scale, r.D) for rows in lost.values() for r in rows_of(rows) if r.D == r.D} - done
    # Rows that others mark as failed may be of any kind; finished ones without a finite loss have diverged.
    many = (count if e.runs.ours else len(lost[DIVERGED])) > MAX_LOST * len(e.runs.table)
    status = WARN if (e.runs.ours and holes) or (many and e.runs.rates < 2) else PASS
    left = f"; {plural(len(holes), 'budget')} of a scale without any finished run" if holes and e.runs.ours else ""
    return Check("every run finished", status, "; ".join(parts) + left, ids)


def one_corpus(e: Evidence) -> Check:
    """All losses are on one data set."""
    corpora = e.runs.corpora
    if len(corpora) > 1:
        detail = f"rows come from {len(corpora)} data sets ({listed(corpora)}): their losses do not follow one law"
        return Check("one data set", FAIL, detail + "; choose one with --where")
    return Check("one data set", PASS, "one data set" if e.runs.ours else "no column says otherwise")


def one_code(e: Evidence) -> Check:
    """The same code on the same kind of device trained all runs."""
    changed = []
    for column, nouns in (("code_version", "versions of the code"), ("device", "kinds of device")):
        if column in e.runs.chosen and (count := e.runs.chosen[column].map(str).nunique()) > 1:
            changed.append(f"{count} {nouns}")
    if changed:
        detail = f"the runs come from {' and '.join(changed)}: differences between them look like scaling"
        return Check("one code, one device", WARN, detail)
    known = "code_version" in e.runs.chosen
    return Check("one code, one device", PASS if known else CANNOT_TELL, "unchanged" if known else "not recorded")


def repeats(e: Evidence) -> Check:
    """No data are seen again, or the law weighs repeats."""
    name, runs = "no repeated data", e.runs
    if "epochs" not in runs.chosen:
        return Check(name, CANNOT_TELL, "epochs are not recorded")
    if runs.repeated is None:
        return Check(name, PASS, "every run stays within one epoch")
    again = int((pd.to_numeric(runs.chosen.epochs, errors="coerce") > ONE_EPOCH).sum())
    detail = f"{plural(again, 'run')} of {len(runs.chosen)} go through the data up to {runs.repeated:.3g} times"
    if e.fit is not None and "U" in e.fit.law.inputs:
        return Check(name, PASS, f"{detail}; the law weighs repeats")
    if runs.repeated <= MAX_EPOCHS * ONE_EPOCH:
        return Check(name, CANNOT_TELL, f"{detail}, and D counts that as new data: nearly true up to {MAX_EPOCHS:g}")
    detail = f"{detail}, and D counts that as new data: set fit.law=data_constrained, or get more data"
    return Check(name, FAIL, detail)


def steps(e: Evidence) -> Check:
    """Runs are long enough to follow a law at all."""
    name = "enough steps"
    column = next((c for c in STEPS if c in e.runs.chosen), None)
    if column is None:
        return Check(name, CANNOT_TELL, "steps are not recorded")
    values = pd.to_numeric(e.runs.chosen[column], errors="coerce")
    few = values < MIN_STEPS
    if few.any():
        detail = (
            f"{plural(int(few.sum()), 'run')} took fewer than {MIN_STEPS} optimizer steps ({values.min():.0f}): "
            "short runs are above any law; drop the smallest budgets or use smaller batches"
        )
        return Check(name, WARN, detail, tuple(e.runs.chosen.run_id[few].map(str)))
    return Check(name, PASS, f"at least {values.min():.0f} optimizer steps")


def embedding(e: Evidence) -> Check:
    """Embeddings are a small part of the largest model."""
    name, chosen = "embeddings are a small part", e.runs.chosen
    if not {"params_total", "params_non_embedding"} <= set(chosen):
        return Check(name, CANNOT_TELL, "the table does not count embeddings separately")
    row = chosen.iloc[int(chosen.N.argmax())]
    share = 1 - float(row.params_non_embedding) / float(row.params_total)
    detail = f"{share:.0%} of all parameters at the largest scale ({row.scale})"
    if share > MAX_EMBEDDING:
        return Check(name, WARN, f"embeddings and head are {detail}: N* depends on how parameters are counted")
    return Check(name, PASS, detail)


def _by_rate(rows: pd.DataFrame) -> str:
    return listed(
        f"{scale}" + (f" rate {lr:g}" if np.isfinite(lr) else "") + (f" x{len(group)}" if len(group) > 1 else "")
        for (scale, lr), group in groups_of(rows, ["scale", "lr"])
    )


def bigger_is_better(e: Evidence) -> Check:
    """The best loss falls with every scale."""
    name, scales = "bigger is better", e.runs.scales
    if len(scales) < 2 or not e.runs.has_compute:
        return Check(name, CANNOT_TELL, plural(len(scales), "scale"))
    if len(scales) > MAX_GROUPS:
        return Check(name, CANNOT_TELL, f"{len(scales)} sizes: neighbors are too close to differ by more than noise")
    scatter = 0.0 if e.linearized is None else e.linearized.noise.total
    tolerance = 2 * (scatter if e.runs.noise is None else e.runs.noise)
    pairs = list(zip(rows_of(scales[:-1]), rows_of(scales[1:])))
    worse = [(a, b) for a, b in pairs if b.y_longest >= a.y_longest * (1 + tolerance)]
    # On fewer tokens a larger scale may well be worse: that is the frontier, not a fault.
    faults = [(a, b) for a, b in worse if b.longest >= a.longest * (1 - 1e-9)]
    named = listed(f"{b.scale} {b.y_longest:.4g} after {a.scale} {a.y_longest:.4g}" for a, b in faults or worse)
    if faults:
        detail = f"at its largest budget a larger scale is not better: {named}"
        return Check(name, FAIL, detail, tuple(b.scale for _, b in faults))
    if worse:
        return Check(name, CANNOT_TELL, f"not at its largest budget: {named}, but on fewer tokens")
    return Check(name, PASS, f"the best loss falls with every scale, from N = {short(scales.N.iloc[0])} on")
