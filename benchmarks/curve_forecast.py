"""How well a cosine and a constant trunk forecast the cool-downs of a model: `fitting.fit_curves`.

    python benchmarks/curve_forecast.py --train      # without --train the simulated curves only

Simulated: the law itself with noise, and stochastic gradient descent on quadratics with power-law spectra, which is not
the law. Trained: a byte-level transformer of width 32 under a constant rate, a cosine and WSD branches; the loss of the
last twentieth of each branch beside the forecast.
"""

import tempfile

import numpy as np
from absl import app, flags

from scaling_jax import fitting

TRAIN = flags.DEFINE_bool("train", False, "train and forecast a small transformer too")
TOKENS = flags.DEFINE_float("tokens", 5e5, "tokens of the longest run")
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
    for jitter in (0.0, 0.003):
        errors, gains = [], []
        for setting in settings:
            curves = [
                {"step": step, "rate": r, "loss": descent(r, *setting) * np.exp(jitter * rng.standard_normal(steps))}
                for r in (rates("cosine", steps, step), rates("constant", steps, step))
            ]
            law = fitting.fit_curves(curves)
            for end in (1000, 2000, 3000):
                for share in (0.1, 0.2, 0.4):
                    t = step[:end]
                    true = descent(rates(share, end, t), *setting)[-1]
                    errors.append(law.predict(t, rates(share, end, t))[-1] / true - 1)
                    gains.append(descent(rates("constant", end, t), *setting)[-1] / true - 1)
        print(
            f"descent, noise {jitter:.1%}: {len(errors)} cool-downs that gain {np.median(gains):.1%} (most "
            f"{max(gains):.1%}): error rms {np.sqrt(np.mean(np.square(errors))):.2%}, worst {np.abs(errors).max():.2%}"
        )


def trained(folder):
    import scaling_jax as sj
    from scaling_jax.models import Transformer
    from scaling_jax.study import Budgets, Data, Evaluation, Ladder, Optimizer, Schedule, Study

    def run(name, tokens):
        study = Study(
            name=f"curve_{name}", family=Transformer(head_dim=16), ladder=Ladder(widths=(32,), depths=(2,)),
            budgets=Budgets(tokens=tokens), optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
            schedule=Schedule(name=name, warmup_steps=WARMUP, final_fraction=0.1 if name == "cosine" else 0.0),
            data=Data(source="python_sources", context=128), evaluation=Evaluation(examples=64),
        )  # fmt: skip
        results = sj.run(study, f"{folder}/{name}", verbose=False)
        lengths = results.table.set_index("run_id").steps
        for run_id, curve in results.curves.groupby("run_id", sort=False):
            curve = curve.sort_values("step")
            yield int(lengths[run_id]), curve.step.to_numpy(float), curve.loss.to_numpy(float)

    longest = TOKENS.value
    curves = []
    for name in ("constant", "cosine"):
        for steps, step, loss in run(name, (longest,)):
            curves.append({"step": step, "rate": rates(name, steps, step), "loss": loss})
    law = fitting.fit_curves(curves)
    print(law)
    for steps, step, loss in run("wsd", (0.5 * longest, 0.75 * longest, longest)):
        late = step > 0.95 * steps
        forecast = law.predict(step, rates(0.2, steps, step))[late].mean()
        noise = loss[late].std() / np.sqrt(late.sum()) / loss[late].mean()
        print(
            f"trained, WSD to {steps} steps: last twentieth {loss[late].mean():.4f} (+- {noise:.1%}), forecast "
            f"{forecast:.4f}, error {forecast / loss[late].mean() - 1:+.2%}"
        )


def main(argv):
    simulated()
    if TRAIN.value:
        with tempfile.TemporaryDirectory() as folder:
            trained(folder)


if __name__ == "__main__":
    app.run(main)
