"""Evaluating a model at rotated inputs: in chunks, stacked, with moments streamed."""
