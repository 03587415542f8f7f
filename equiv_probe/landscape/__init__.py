"""Gradients, curvature, lines and a penalty: the decomposed loss as a function of the weights."""
