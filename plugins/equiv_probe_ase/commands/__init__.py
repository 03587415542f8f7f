"""The commands that ASE calculators make possible: ``equiv-probe audit``, ``md`` and ``demo``."""
