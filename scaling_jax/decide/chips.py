"""Device-hours and FLOPs: chips that one could rent."""

from __future__ import annotations

import dataclasses

from scaling_jax.text import short
from scaling_jax.training import hardware

UTILIZATION = 0.4  # of the peak: what well-tuned training reaches


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip at work.

    Attributes:
      name: as `training.hardware.KNOWN_PEAKS` has it.
      peak: dense bf16 FLOP/s.
      utilization: share of the peak that training reaches.
      price: dollars per chip-hour, or None.
    """

    name: str
    peak: float
    utilization: float = UTILIZATION
    price: float | None = None

    def hours(self, flops: float) -> float:
        """Device-hours of so many training FLOPs."""
        return flops / (self.peak * self.utilization * 3600.0)

    def flops(self, hours: float) -> float:
        """Training FLOPs of so many device-hours."""
        return hours * self.peak * self.utilization * 3600.0

    def text(self, flops: float) -> str:
        """ "1.2k H100-hours at 40% of peak, $2.4k" """
        hours = self.hours(flops)
        dollars = "" if self.price is None else f", ${short(self.price * hours)} at ${self.price:g} each"
        return f"{short(hours)} {self.name}-hours at {self.utilization:.0%} of peak{dollars}"


def find_chip(name: str, utilization: float = UTILIZATION, price: float | None = None) -> Chip:
    """The chip of this name, such as "H100" or "v5e".

    Raises:
      UserError: a chip whose peak is not known.
    """
    found = hardware.known_chip(name)
    return Chip(found, hardware.KNOWN_PEAKS[found], utilization, price)
