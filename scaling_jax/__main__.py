from scaling_jax.cli.main import entry

entry()
