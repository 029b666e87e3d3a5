"""A family's counts are checked before anything trains: wrong ones are an error with both numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import ladder
import numpy as np
import pytest

from scaling_jax.errors import UserError
from scaling_jax.models import CNN, MLP, Scaling, Spec, Transformer
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Data, Execution, Ladder, Study
from scaling_jax.study_file import load_study
from scaling_jax.training import verify

TOKENS, IMAGES = Spec("tokens", 64, 16), Spec("images", 10, 1, (16, 16, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Miscounted(Transformer):
    """Counts that are off by a factor."""

    name = "miscounted"
    params: float = 1
    flops: float = 1

    def counts(self, width, depth, spec, causal=True):
        right = super().counts(width, depth, spec, causal)
        return dataclasses.replace(
            right,
            params_total=int(right.params_total * self.params),
            flops_per_token=right.flops_per_token * self.flops,
        )


@pytest.mark.parametrize(
    ("family", "width", "depth", "spec"),
    [
        (Transformer(head_dim=8), 8, 1, Spec("tokens", 16, 8)),  # so small that sums over channels would show
        (Transformer(head_dim=8), 16, 1, TOKENS),
        (Transformer(head_dim=8, short_conv=3), 16, 2, TOKENS),
        (Transformer(head_dim=8, mlp_ratio=2), 32, 4, TOKENS),  # a scan over layers
        (Transformer(head_dim=64), 128, 3, Spec("tokens", 32_768, 2048)),  # logits in chunks that are recomputed
        (CNN(stages=2), 8, 3, IMAGES),
        (MLP(), 8, 3, IMAGES),
    ],
)
def test_our_families_pass(family, width, depth, spec):
    counts, found = family.counts(width, depth, spec), verify.check_counts(family, width, depth, spec)
    assert found["params_total"] == counts.params_total
    unseen = family.unseen_flops_per_token(width, depth, spec) if isinstance(family, Transformer) else 0
    if spec.context < 2048:
        assert found["flops_per_token"] == pytest.approx(counts.flops_per_token + unseen, rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"params": 10}, r"params_total=36,480, and its arrays have 3,648"),
        ({"flops": 10}, r"flops_per_token=\d+,\d+ .*take \d+,\d+; correct counts"),
        ({"flops": 1.04}, "flops_per_token"),
        ({"flops": 0.96}, "flops_per_token"),
    ],
)
def test_wrong_counts_are_an_error_with_both_numbers(wrong, message):
    spec = Spec("tokens", 16, 8)
    with pytest.raises(UserError, match=message):
        verify.check_counts(Miscounted(head_dim=8, **wrong), 16, 1, spec)
    verify.check_counts(Miscounted(head_dim=8), 16, 1, spec)


def test_training_does_not_start_with_wrong_counts_and_a_passed_check_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path))
    spec = Spec("tokens", 16, 8)

    def packs_of(**wrong):
        study = Study(
            name="counts",
            family=Miscounted(head_dim=8, **wrong),
            ladder=Ladder(widths=(16,), depths=(1,)),
            budgets=Budgets(tokens=(1e5,)),
            data=Data(context=8),
        )
        return study, make_plan(study, spec)

    study, packs = packs_of(flops=10)
    with pytest.raises(UserError, match="flops_per_token"):
        verify.check_packs(study, packs, spec)
    assert not list(tmp_path.rglob("*.json")), "a failed check is not remembered"
    study, packs = packs_of()
    verify.check_packs(study, packs, spec)
    assert len(list(tmp_path.rglob("*.json"))) == 1
    monkeypatch.setattr(verify, "check_counts", lambda *scale: pytest.fail("checked twice"))
    verify.check_packs(study, packs, spec)


OWN = """
import dataclasses, jax
from scaling_jax.models import Counts, Model, mean_loss
from scaling_jax.study import Budgets, Data, Ladder, Study
LAYERS = 1

@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    name, inputs = "own", "tokens"
    def check(self, width, depth, spec): pass
    def counts(self, width, depth, spec): return Counts(width**2, width**2, width**2, 6 * width**2)
    def activation_bytes(self, *scale): return 0
    def build(self, width, depth, spec, scaling, execution):
        def init(key): return {"w": jax.numpy.ones((LAYERS, width, width))}
        def loss(params, batch):
            x = jax.nn.one_hot(batch[:, 1:], width)
            return (x @ params["w"][0]).sum(), {}
        return Model(init=init, loss=loss, evaluate=None, metrics=mean_loss, lr_multipliers=None, decay_mask=None)

def get_study():
    return Study(name="own", family=Own(), ladder=Ladder(widths=(16,), depths=(1,)), data=Data(context=8),
                 budgets=Budgets(tokens=(1e5,)))
"""


def test_wrong_counts_are_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    study = ladder.write_study(tmp_path)
    wrong = "type('Wrong', (Bigram,), {'counts': lambda self, *at: Bigram().counts(*at[:1], 2, *at[2:])})()"
    study.write_text(study.read_text().replace(ladder.BIGRAM, wrong))
    code, out, err = ladder.run_here("run", f"--study={study}", f"--workdir={tmp_path / 'w'}")
    assert code == 2 and not out and "correct counts() of the family" in err.splitlines()[-1]
    assert not (tmp_path / "w").exists()


def test_a_family_in_a_study_file_is_checked_again_once_the_file_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path))
    spec, path = Spec("tokens", 16, 8), tmp_path / "own.py"

    def check(text):
        path.write_text(text)
        study = load_study(path)
        verify.check_packs(study, make_plan(study, spec), spec)

    monkeypatch.setattr(verify, "traced_flops", lambda *args: (6 * 16**2 * verify.BATCH * 8,) * 2)
    check(OWN)
    assert len(list(tmp_path.rglob("counts/*.json"))) == 1
    with pytest.raises(UserError, match="params_total=256, and its arrays have 2,560"):
        check(OWN.replace("LAYERS = 1", "LAYERS = 10"))


@pytest.mark.parametrize(
    ("family", "width", "depth", "spec"),
    [(Transformer(head_dim=64), 256, 2, Spec("tokens", 512, 64)), (MLP(), 512, 2, IMAGES)],
)
def test_traced_flops_are_those_of_xla(family, width, depth, spec):
    """On unrolled models that are wide enough for elementwise work to be a small share."""
    execution = Execution(compute_dtype="float32", scan_layers=False, remat=False, attention="xla")
    model = family.build(width, depth, spec, Scaling("standard", width, width), execution)
    params = jax.eval_shape(model.init, jax.random.key(0))
    if spec.kind == "tokens":
        batch = jax.ShapeDtypeStruct((4, 65), np.int32)
    else:
        batch = {
            "image": jax.ShapeDtypeStruct((64, 16, 16, 3), np.float32),
            "label": jax.ShapeDtypeStruct((64,), np.int32),
        }

    def loss(params, batch):
        return model.loss(params, batch)[0]

    low, high = verify.traced_flops(loss, params, batch)
    xla = jax.jit(jax.grad(loss)).lower(params, batch).cost_analysis()["flops"]
    assert low == high == pytest.approx(xla, rel=0.03)


def test_scans_conditionals_and_recomputation_are_counted():
    x, w = jax.ShapeDtypeStruct((4, 8), np.float32), jax.ShapeDtypeStruct((8, 8), np.float32)
    product = 2 * 4 * 8 * 8

    def scanned(w, x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0].sum()

    assert verify.traced_flops(scanned, w, x) == (3 * 5 * product, 3 * 5 * product)

    def recomputed(w, x):
        body = jax.checkpoint(lambda x, _: (jnp.tanh(x @ w), None))
        return jax.lax.scan(body, x, length=5)[0].sum()

    low, high = verify.traced_flops(recomputed, w, x)
    assert low <= 3 * 5 * product <= high

    def unbounded(w, x):
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ jax.lax.stop_gradient(w), x).sum() * w.sum()

    with pytest.raises(verify.Uncountable):
        verify.traced_flops(unbounded, w, x)
