"""How well cosine runs and a constant trunk forecast the cool-downs of a model: `fitting.fit_curves`.

    python benchmarks/curve_forecast.py --train      # without --train the simulated curves only

Simulated: stochastic gradient descent on quadratics with power-law spectra, which is not the law. Trained: a byte-level
transformer of width 32. All its losses are of one fixed validation set: along a constant trunk at 20 budgets, at the
ends of cosine runs of up to six lengths, and at the ends of WSD branches, which are forecast.
"""

import tempfile

import numpy as np
from absl import app, flags

from scaling_jax import fitting

TRAIN = flags.DEFINE_bool("train", False, "train and forecast a small transformer too")
TOKENS = flags.DEFINE_float("tokens", 2e6, "tokens of the longest run")
WARMUP = 100


def rates(name, steps, step, end=0.1):
    """Rate of a schedule in parts of its peak, at each step."""
    up = np.minimum(step / WARMUP, 1.0)
    if name == "constant":
        return up
    if name == "cosine":
        return up * (end + (1 - end) * 0.5 * (1 + np.cos(np.pi * np.clip((step - WARMUP) / (steps - WARMUP), 0, 1))))
    return up * np.clip((steps + 1 - step) / (name * steps), 0, 1)  # WSD: the share of the cool-down


def descent(rate, spectrum, start, noise):
    """Expected loss of stochastic gradient descent on a quadratic, step by step."""
    curvature = np.arange(1, 501.0) ** -spectrum
    moment, loss = 4.0 * np.arange(1, 501.0) ** -start, []
    for eta in 0.5 * rate:
        moment = (1 - eta * curvature) ** 2 * moment + eta**2 * noise * curvature
        loss.append(1.5 + 0.5 * np.sum(curvature * moment))
    return np.array(loss)


def simulated():
    steps, rng = 3000, np.random.default_rng(0)
    step = np.arange(1, steps + 1.0)
    settings = [(a, b, n) for a in (1.1, 1.5) for b in (0.2, 0.6) for n in (0.1, 0.5)]
    for jitter, cosines in ((0.0, (3000,)), (0.0, (1000, 3000)), (0.003, (1000, 3000))):
        errors, gains = [], []
        for setting in settings:
            curves = []
            for name, end in (("constant", steps), *(("cosine", n) for n in cosines)):
                t = step[:end]
                loss = descent(rates(name, end, t), *setting) * np.exp(jitter * rng.standard_normal(end))
                curves.append({"step": t, "rate": rates(name, end, t), "loss": loss})
            law = fitting.fit_curves(curves)
            for end in (1000, 2000, 3000):
                for share in (0.1, 0.2, 0.4):
                    t = step[:end]
                    true = descent(rates(share, end, t), *setting)[-1]
                    errors.append(law.predict(t, rates(share, end, t))[-1] / true - 1)
                    gains.append(descent(rates("constant", end, t), *setting)[-1] / true - 1)
        print(
            f"descent, noise {jitter:.1%}, cosines of {cosines} steps: {len(errors)} cool-downs that gain "
            f"{np.median(gains):.1%} (most {max(gains):.1%}): error rms {np.sqrt(np.mean(np.square(errors))):.2%}, "
            f"worst {np.abs(errors).max():.2%}",
            flush=True,
        )


def trained(folder):
    import scaling_jax as sj
    from scaling_jax.models import Transformer
    from scaling_jax.study import Budgets, Data, Evaluation, Ladder, Optimizer, Schedule, Study

    def run(name, shares):
        tokens = tuple(float(round(TOKENS.value * share)) for share in shares)
        study = Study(
            name=f"curve_{name}", family=Transformer(head_dim=16), ladder=Ladder(widths=(32,), depths=(2,)),
            budgets=Budgets(tokens=tokens), optimizer=Optimizer(learning_rates=(0.014,), batch_size=8),
            schedule=Schedule(name=name, warmup_steps=WARMUP, final_fraction=0.1 if name == "cosine" else 0.0),
            data=Data(source="python_sources", context=128), evaluation=Evaluation(examples=2048),
        )  # fmt: skip
        table = sj.run(study, f"{folder}/{name}", verbose=False).table
        return [(int(steps), float(loss)) for steps, loss in zip(table.steps, table.loss)]

    def curve(name, measured):
        steps = measured[-1][0]
        step, loss = np.arange(1, steps + 1.0), np.full(steps, np.nan)
        for at, value in measured:
            loss[at - 1] = value
        return {"step": step, "rate": rates(name, steps, step), "loss": loss}

    trunk = curve("constant", run("constant", np.geomspace(0.08, 1, 20)))
    ends = run("cosine", np.geomspace(0.2, 1, 6))
    branches = run("wsd", np.geomspace(0.3, 1, 4))
    for lengths in (1, 3, 6):
        law = fitting.fit_curves([trunk, *(curve("cosine", [end]) for end in ends[-lengths:])])
        print(f"{lengths} cosines; {law}")
        for steps, loss in branches:
            step = np.arange(1, steps + 1.0)
            forecast = law.predict(step, rates(0.2, steps, step))[-1]
            print(f"  WSD to {steps} steps: {loss:.4f}, forecast {forecast:.4f}, error {forecast / loss - 1:+.2%}")


def main(argv):
    simulated()
    if TRAIN.value:
        with tempfile.TemporaryDirectory() as folder:
            trained(folder)


if __name__ == "__main__":
    app.run(main)
