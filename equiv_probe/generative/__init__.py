"""Samplers, audited with noise that rotates along."""
