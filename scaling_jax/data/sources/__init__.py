"""Readers of what data.source can name."""
