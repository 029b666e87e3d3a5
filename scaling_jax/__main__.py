"""`python -m scaling_jax` and the console script: handles signals first, then imports the command line."""

from scaling_jax import signals

signals.install()

from scaling_jax.cli.main import entry  # noqa: E402

if __name__ == "__main__":
    entry()
