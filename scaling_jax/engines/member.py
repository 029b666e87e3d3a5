"""`python -m scaling_jax.engines.member run ...`: one process of several that train together, under its supervisor."""

from __future__ import annotations

import os
import sys

from scaling_jax.cli import main as cli
from scaling_jax.engines.child import stop_with_parent

if __name__ == "__main__":
    stop_with_parent()
    code = cli.main(sys.argv)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)  # a regular end would wait for peers that may be gone
