"""The command line: flags around `scaling_jax.api`."""

from scaling_jax.cli.main import COMMANDS, entry

__all__ = ["COMMANDS", "entry"]
