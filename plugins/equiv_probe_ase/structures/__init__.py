"""Structures: read, rotated, and the quantities that belong to them."""
