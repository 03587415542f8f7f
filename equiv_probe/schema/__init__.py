"""Which tensor is what, and how that was found out; which rotation belongs to which structure."""

from equiv_probe.schema.schema import Schema

__all__ = ["Schema"]
