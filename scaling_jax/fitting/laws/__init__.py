"""Scaling laws by name: `fitting.laws["chinchilla"]`; equations in the modules, one per kind.

This package is a mapping from names to laws (see `registry.Laws`).
"""

import sys
from typing import cast

from scaling_jax.fitting.laws.registry import Laws

sys.modules[__name__].__class__ = Laws
laws = cast(Laws, sys.modules[__name__])
