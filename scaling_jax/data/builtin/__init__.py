"""Corpora that come with packages: nothing to download."""
