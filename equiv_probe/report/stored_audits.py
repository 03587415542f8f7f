"""What the saved audits of samplers and of models of grids look like."""

from __future__ import annotations

from typing import Any

from equiv_probe.report.stored import ANY, COUNT, FLAG, NUMBER, TEXT, Each, Maybe

_SPAN = (NUMBER, NUMBER)
_BIN = {"low": COUNT, "high": COUNT, "rms": NUMBER, "count": COUNT}
_QUANTILES: dict[str, Any] = {"q50": NUMBER, "q95": NUMBER, "max": NUMBER}
_END_POINTS: dict[str, Any] = {
    **dict.fromkeys(("name", "unit", "verdict", "sentence"), TEXT),
    **dict.fromkeys(("rms", "spread", "scale", "floor", "nondeterminism"), NUMBER),
    "samples": COUNT,
    "rms_interval": _SPAN,
    "over_samples": {**_QUANTILES, "worst": COUNT},
    "over_rotations": _QUANTILES,
    "by_sample": [{"sample": COUNT, **dict.fromkeys(("rms", "max", "floor", "nondeterminism"), NUMBER)}],
    "along_path?": [{"point": COUNT, "rms": NUMBER, "floor": NUMBER, "other noise": NUMBER}],
    "by_angle?": [_BIN],
    "law?": Each(ANY),
}
SAMPLER = {
    "sampler": TEXT,
    "protocol": Each(ANY),
    "measured": [_END_POINTS],
    "draws": [{"call": TEXT, "shape": [COUNT], "times": COUNT, "turned": FLAG, "where": TEXT}],
    "failures?": [{"name": TEXT, "error": TEXT}],
    "notes?": [TEXT],
    "blind_spots?": [TEXT],
}

_NUMBERS = dict.fromkeys(("total", "mean", "equiv", "share"), NUMBER)
_DECOMPOSITION = {
    **_NUMBERS,
    **{f"{name}_stderr": NUMBER for name in _NUMBERS},
    **dict.fromkeys(("floor", "nondeterminism"), NUMBER),
    "equiv_interval": _SPAN,
    "share_interval": _SPAN,
    "loss": TEXT,
    "unit": TEXT,
    "structures": COUNT,
    "notes?": [TEXT],
}
_BY_STRUCTURE = {name: [NUMBER] for name in ("total", "mean", "equiv", "equiv_stderr", "weight")}
_ESTIMATE = {
    **_DECOMPOSITION,
    "parts": Each(_DECOMPOSITION),
    "per_structure?": _BY_STRUCTURE,
    "rotation_plan": {"design": TEXT, "replicates": COUNT, "improper": FLAG, "seed": COUNT, "subset": Maybe(COUNT)},
}
GRID = {
    "model": TEXT,
    "structures": COUNT,
    "cube": _ESTIMATE,
    "rotations": {**_ESTIMATE, "interpolation": TEXT},
    "by_angle?": {"cube": [_BIN], "rotations": [_BIN]},
    "protocol?": Each(ANY),
    "seconds": NUMBER,
}
