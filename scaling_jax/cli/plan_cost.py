"""What a plan takes on machines that one could rent, before anything is rented."""

from __future__ import annotations

from collections.abc import Sequence

from scaling_jax.cli.plan_text import ASSUMED_SHARE
from scaling_jax.engines.progress import clock
from scaling_jax.errors import UserError
from scaling_jax.planning import Pack
from scaling_jax.training.hardware import KNOWN_PEAKS


def cost_text(packs: Sequence[Pack], chip: str, chips: int, price: float | None) -> str:
    """One line: time of the plan on so many chips, and dollars when the price of a chip hour is given.

    Raises:
      UserError: a chip whose peak is not known.
    """
    names = {name.lower().removeprefix("tpu ").removeprefix("tpu"): name for name in KNOWN_PEAKS}
    name = names.get(chip.lower().removeprefix("tpu ").removeprefix("tpu"))
    if name is None:
        raise UserError(f"--chip={chip!r} is not known; one of {', '.join(sorted(names))}")
    share = ASSUMED_SHARE["tpu" if name.startswith("TPU") else "gpu"]
    seconds = sum(pack.trained_flops for pack in packs) / (share * KNOWN_PEAKS[name] * chips)
    text = f"On {chips} x {name} at {100 * share:.0f}% of peak: about {clock(seconds).strip()}"
    if price is not None:
        text += f", ${price * chips * seconds / 3600:,.2f} at ${price:g} a chip and hour"
    return f"{text}; starting, compiling and preemptions come on top."
