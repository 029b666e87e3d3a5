"""Where files lie on disk or gs://: working directories and locks."""
