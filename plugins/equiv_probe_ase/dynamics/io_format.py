"""What ASE loads with its file formats, from the entry point ``ase.ioformats``: the monitor's log as structures.

It is also where the environment variable ``EQUIV_PROBE`` is looked at: ASE has no entry point for observers, and loads
this one in every script that runs dynamics. It costs nothing if the variable is unset.
"""

from __future__ import annotations

import os

from ase.utils.plugins import ExternalIOFormat

dynamics = ExternalIOFormat(
    desc="log of equiv_probe's SymmetryMonitor",
    code="+F",
    module="equiv_probe_ase.dynamics.log_reading",
    magic=b'{"equiv_probe_dynamics"',
)

if os.environ.get("EQUIV_PROBE", "") not in {"", "0"}:
    from equiv_probe_ase.dynamics.environment import watch

    watch()
