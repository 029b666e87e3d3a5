"""Time and cost of a plan on chips that this machine does not have."""

import pytest

from scaling_jax.engines.estimate import cost_text
from scaling_jax.errors import UserError
from scaling_jax.models import Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Ladder, Study


@pytest.fixture(scope="module")
def packs():
    ladder = Ladder(widths=(1024, 2048), depths=(16,))
    study = Study(name="cost", family=Transformer(head_dim=64), ladder=ladder, budgets=Budgets(tokens_per_param=(20,)))
    return make_plan(study, Spec(kind="tokens", vocab_size=32_000, context=1024))


def test_time_and_price(packs):
    hours = sum(pack.trained_flops for pack in packs) / (0.4 * 918e12 * 8) / 3600
    text = cost_text(packs, "v6e", 8, 1.5)
    assert "On 8 x TPU v6e at 40% of peak" in text
    assert f"${1.5 * 8 * hours:,.2f} at $1.5 per chip-hour" in text
    assert f"about {int(hours)}:" in text


@pytest.mark.parametrize("chip, name", [("TPU v5e", "TPU v5e"), ("v5E", "TPU v5e"), ("h100", "H100"), ("7x", "TPU7x")])
def test_names_of_chips(packs, chip, name):
    text = cost_text(packs, chip, 1, None)
    assert f"1 x {name} " in text and "$" not in text


def test_an_unknown_chip_is_refused(packs):
    with pytest.raises(UserError, match="v6e"):
        cost_text(packs, "v99", 1, None)
