"""Every test sees four CPU devices, so that meshes are real."""

import jax

jax.config.update("jax_num_cpu_devices", 4)
