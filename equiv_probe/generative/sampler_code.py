"""Which line of a sampler's own code draws at random: the innermost that is neither torch's nor ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from equiv_probe import deprecation
from equiv_probe.rotations import plan

_PASSED = {str(Path(__file__).with_name(f"{name}.py")) for name in ("noise", "noise_source", "drawn_rotations")}
_PASSED |= {__file__, deprecation.__file__}
_HERE, _ROTATIONS, _TORCH = (
    f"{path}{os.sep}" for path in (Path(__file__).parents[1], Path(plan.__file__).parent, Path(torch.__file__).parent)
)


def sampler_code() -> tuple[str, bool]:
    """File and line of the innermost code that is not torch's nor of an audit, and whether it draws our rotations."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_TORCH) and file not in _PASSED:
            if file.startswith(_HERE):
                return "", file.startswith(_ROTATIONS)
            return f"{Path(file).name}:{frame.f_lineno}", False
        frame = frame.f_back  # type: ignore[assignment]
    return "", False
