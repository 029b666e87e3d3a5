"""`scaling-jax serve`: one trained model over HTTP, on this machine only unless --host says otherwise."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from scaling_jax.cli import trained_flags
from scaling_jax.trained.serve import Limits, make_app, serve


def define_flags() -> None:
    """Defines the flags of `scaling-jax serve`."""
    trained_flags.define_flags()
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; the default is reached from this machine only.")
    flags.DEFINE_integer("port", 8000, "Port; 0 takes a free one.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_integer("queue", 32, "Requests that may wait; further ones are refused (429).", lower_bound=1)
    flags.DEFINE_float("timeout", 60.0, "Seconds for one request, waiting included.", lower_bound=0.001)
    flags.DEFINE_integer("max_body", 1 << 20, "Bytes of a request; larger ones are refused (413).", lower_bound=1)


def main(args: list[str], values: Any) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit code."""
    models = trained_flags.models(args, values)
    app = make_app(models, values.scale, values.run_id, Limits(values.queue, values.timeout, values.max_body))
    serve(app, values.host, values.port, lambda line: print(line, file=sys.stderr, flush=True))
    return 0
