"""What saved curvatures and lines look like (:mod:`equiv_probe.report.stored` holds files to it)."""

from __future__ import annotations

from typing import Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.conditioning import KINDS
from equiv_probe.report.stored import ANY, COUNT, NUMBER, TEXT, Each, require

VERSION = 1
NAMES = ("total", "mean", "equiv")
MATRICES = {"hessian": "Hessian", "gauss-newton": "Gauss–Newton matrix"}

_ESTIMATE = dict.fromkeys(("value", "stderr", "low", "high"), NUMBER)
_LOSS: dict[str, Any] = {
    "parameters": COUNT,
    **dict.fromkeys(("largest", "smallest", "trace", "norm_squared", "rank", "entropy_rank"), _ESTIMATE),
    "largest_bracket": (NUMBER, NUMBER),
    "condition": dict.fromkeys(KINDS, _ESTIMATE),
    "eigenvalues": [[COUNT]],
    "density": {"nodes": [COUNT], "weights": [COUNT]},
}
CURVATURE: dict[str, Any] = {
    "matrix": TEXT,
    "products": COUNT,
    "seconds": NUMBER,
    "notes": [TEXT],
    "name?": TEXT,
    "protocol?": Each(ANY),
    **{f"{name}?": _LOSS for name in NAMES},
    "condition_ratio": {f"{kind}?": _ESTIMATE for kind in KINDS},
}
_EXPONENT = {
    "power": _ESTIMATE,
    **dict.fromkeys(("coefficient", "low", "high"), NUMBER),
    "points": COUNT,
    "why": TEXT,
}
LINE: dict[str, Any] = {
    "direction": TEXT,
    "over": TEXT,
    "seed": COUNT,
    "sets": COUNT,
    "length": NUMBER,
    "name?": TEXT,
    "protocol?": Each(ANY),
    "t": [COUNT],
    **{f"L_{name}": [COUNT] for name in NAMES},
    **{f"L_{name}_stderr": [NUMBER] for name in NAMES},
    "exponents": dict.fromkeys(NAMES, _EXPONENT),
}


def require_curvature(found: Any) -> None:
    """Hold stored data against what a curvature looks like.

    Raises:
        EquivProbeError: it is not like that.
    """
    require(found, CURVATURE)
    having = [name for name in NAMES if name in found]
    if not having or found["matrix"] not in MATRICES:
        raise _refused(f"a {found['matrix'][:20]!r} of {having or 'no loss'}", "that of one loss or more")
    for name in having:
        nodes, weights = (found[name]["density"][key] for key in ("nodes", "weights"))
        if not 0 < len(nodes) == len(weights) or min(weights) < 0 or not sum(weights) > 0:
            raise _refused(
                f"{name}.density of {len(nodes)} nodes and {len(weights)} weights", "positive weights of all"
            )
        if not found[name]["parameters"] >= 1:
            raise _refused(f"{name} of {found[name]['parameters']} parameters", "one or more")
    if {"mean", "equiv"} <= set(having) and not set(KINDS) <= set(found["condition_ratio"]):
        raise _refused("condition_ratio without some", ", ".join(KINDS))


def require_line(found: Any) -> None:
    """Hold stored data against what a line looks like.

    Raises:
        EquivProbeError: it is not like that.
    """
    require(found, LINE)
    columns = ["t", *(f"L_{name}{end}" for name in NAMES for end in ("", "_stderr"))]
    lengths = {name: len(found[name]) for name in columns}
    if len(set(lengths.values())) > 1 or found["t"].count(0) != 1 or sorted(set(found["t"])) != found["t"]:
        raise _refused(f"columns of {sorted(set(lengths.values()))} numbers", "as many of all, t rising, 0 among them")


def _refused(found: str, expected: str) -> EquivProbeError:
    return EquivProbeError(found, expected, 'what save("landscape.json") writes')
