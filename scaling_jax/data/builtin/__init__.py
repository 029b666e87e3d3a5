"""Corpora that come with packages."""
