"""Which tensor is what, and how that was found out; which rotation belongs to which structure."""
