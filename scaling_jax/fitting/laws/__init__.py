"""Scaling laws: equations, one file per kind, and the registry of names."""
