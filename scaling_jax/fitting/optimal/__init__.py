"""From a fit or sweeps to the compute-optimal allocation."""
