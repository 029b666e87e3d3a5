"""Trainable scales: the (width, depth) with a wanted number of parameters, along the path that a ladder takes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling_jax.errors import UserError
from scaling_jax.models.family import Counts, Spec, attention_head_dim
from scaling_jax.study import Study

WIDE, TILE = 1024, 128  # widths from here on are multiples of this, as hardware wants it
LARGEST_WIDTH, LARGEST_DEPTH = 2**20, 2**12


@dataclasses.dataclass(frozen=True)
class Shape:
    """One scale.

    Attributes:
      width, depth: of the model.
      heads: of its attention; None without attention.
      counts: of its parameters and FLOPs.
      N: as the study's fit counts it.
    """

    width: int
    depth: int
    heads: int | None
    counts: Counts
    N: int

    def text(self) -> str:
        """ "width 1024, depth 16, 16 heads" """
        return f"width {self.width}, depth {self.depth}" + (f", {self.heads} heads" if self.heads else "")


@dataclasses.dataclass(frozen=True)
class Path:
    """Scales of a study's family: depth ~ width^slope as in its ladder, widths in steps that the family can build.

    Attributes:
      study, spec: of the family and its data.
      slope, depth, width: depth(w) = depth (w / width)^slope.
      step: widths are multiples of it.
    """

    study: Study
    spec: Spec
    slope: float
    depth: float
    width: float
    step: int

    @classmethod
    def of(cls, study: Study, spec: Spec) -> Path:
        """The path through the scales of a study's ladder."""
        scales = study.ladder.scales()
        w, d = (np.array(v, float) for v in zip(*scales))
        slope = 0.0
        if not study.ladder.depths:
            slope = 1.0
        elif len(set(w)) > 1 and len(set(d)) > 1:
            slope = float(np.clip(np.polyfit(np.log(w), np.log(d), 1)[0], 0.0, 1.5))
        depth = float(np.exp(np.mean(np.log(d) - slope * np.log(w / w.max()))))
        if slope == 1.0 and not study.ladder.depths:
            depth = w.max() / study.ladder.aspect
        step = math.gcd(*(int(v) for v in w))
        return cls(study, spec, slope, depth, float(w.max()), attention_head_dim(study.family) or step)

    def shape(self, width: int, depth: int | None = None) -> Shape | None:
        """The scale of this width; None where the family cannot build it."""
        depth = max(1, round(self.depth * (width / self.width) ** self.slope)) if depth is None else depth
        if width > LARGEST_WIDTH or depth > LARGEST_DEPTH:
            return None
        family: Any = self.study.family
        try:
            family.check(width, depth, self.spec)
            counts = family.counts(width, depth, self.spec)
        except (ValueError, UserError):
            return None
        head = attention_head_dim(family)
        return Shape(width, depth, width // head if head else None, counts, getattr(counts, self.study.fit.params))

    def nearest(self, N: float, most: float | None = None) -> Shape | None:
        """The scale whose ln N is nearest, with at most so many parameters; None where there is none."""
        low, high = 1, 1
        while (found := self.shape(high * self.step)) is not None and found.N < N:
            low, high = high, 2 * high
        widths = range(low * self.step, high * self.step + 1, self._tile(low * self.step))
        if len(widths) > 2**12:
            widths = widths[:: len(widths) // 2**11]
        shapes = [s for w in widths if (s := self.shape(w)) is not None and (most is None or most * 1.0001 >= s.N)]
        return min(shapes, key=lambda s: abs(math.log(s.N / N)), default=None)

    def _tile(self, width: int) -> int:
        return math.lcm(self.step, TILE) if width >= WIDE else self.step
