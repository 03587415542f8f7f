"""Why does a model break symmetry? Experiments, cheapest first, until one explains the error."""
