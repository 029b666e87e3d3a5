"""Readers of everything that `data.source` can name, and the registry for more of them."""
