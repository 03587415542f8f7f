"""Calculators: by name, made, looked into, and copied to have one of our own."""
