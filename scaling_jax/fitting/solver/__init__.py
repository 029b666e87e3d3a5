"""How a fit finds its optimum (private)."""
