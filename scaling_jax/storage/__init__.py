"""Paths on disk or gs://: working directories and locks."""
