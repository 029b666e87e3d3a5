"""Every test sees four CPU devices, so that meshes are real."""

import jax
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 4)

# The same examples in every run: a failure is that of a change. To look further: --hypothesis-profile=default.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")
