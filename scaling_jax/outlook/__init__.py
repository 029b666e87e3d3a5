"""What a planned study will be able to tell, before a FLOP is spent: the plan knows every N and D.

The expected intervals are those of a prior law at the planned runs, to first order: with J the derivatives of ln loss
by ln parameters and V the covariance of ln loss (a part that all branches of a trunk share, and one of each run), the
parameters' covariance is (J' V^-1 J)^-1, and N*, D* and the loss at the target follow by the delta method. Of what is
swept at a scale, a budget and a seed one run counts, the winner. Other laws and drift make a forecast wider than this.
"""

from scaling_jax.outlook.assess import Outlook, assess, refused
from scaling_jax.outlook.expected import (
    RUN_NOISE,
    SMALL_LAW,
    TRUNK_NOISE,
    Prior,
    checked,
    expected_intervals,
    named_prior,
    points_of,
)
from scaling_jax.outlook.findings import Finding

__all__ = [
    "RUN_NOISE", "SMALL_LAW", "TRUNK_NOISE", "Finding", "Outlook", "Prior", "assess", "checked", "expected_intervals",
    "named_prior", "points_of", "refused",
]  # fmt: skip
