"""The optimizer behind `fitting.fit`; private."""
