"""Where packs run: in this process ("local"), or elsewhere through an engine."""

# Engine -> module, loaded only when asked for. "local" needs none.
ENGINES = {
    "ray": "scaling_jax.engines.ray_engine",
    "slurm": "scaling_jax.engines.slurm",
    "xpk": "scaling_jax.engines.xpk",
}
