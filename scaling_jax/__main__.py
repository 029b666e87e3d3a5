from scaling_jax.cli import entry

entry()
