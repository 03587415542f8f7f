"""Structures as chemiscope's 3D viewer takes them: numbers and chemical symbols, and no text from files."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from equiv_probe.report.formatting import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def scene(geometries: Sequence[Mapping[str, Any]], colours: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What chemiscope is given; names from files stay out, and structures are known by their place.

    ``geometries`` are :func:`drawable`; ``colours`` hold, by name, a value of every atom, structure after structure,
    and the first of them colours the atoms.
    """
    structures = [_structure(geometry) for geometry in geometries]
    places = [(i, j) for i, geometry in enumerate(geometries) for j in range(len(geometry["symbols"]))]
    view: dict[str, Any] = {"environments": {"activated": False}, "unitCell": any("cell" in s for s in structures)}
    if colours:
        name = next(iter(colours))
        view["color"] = {
            "property": name,
            "palette": "cividis",
            "min": 0,
            "max": max(colours[name], default=1.0) or 1.0,
        }
    return {
        "meta": {"name": "worst structures"},
        "structures": structures,
        "environments": [{"structure": i, "center": j, "cutoff": 3.5} for i, j in places],
        "properties": {name: {"target": "atom", "values": list(values)} for name, values in colours.items()},
        "settings": {"target": "structure", "structure": [view]},
    }


def drawable(geometry: Any) -> bool:
    """Results come from files: what is not a geometry is not drawn."""
    if not isinstance(geometry, dict):
        return False
    symbols, positions, cell = (geometry.get(key) for key in ("symbols", "positions", "cell"))
    if not (isinstance(symbols, list) and isinstance(positions, list) and len(symbols) == len(positions) > 0):
        return False
    if cell is not None and not (isinstance(cell, list) and len(cell) == 3):
        return False
    rows = [*positions, *(cell or [])]
    return all(isinstance(row, list) and len(row) == 3 and all(map(math.isfinite, map(finite, row))) for row in rows)


def colour_name(text: str) -> str:
    """A name without what the viewer could take for markup."""
    return re.sub(r"[^\w /.²³·-]", "", text) or "quantity"


def _structure(geometry: Mapping[str, Any]) -> dict[str, Any]:
    x, y, z = (list(column) for column in zip(*geometry["positions"], strict=True))
    names = [symbol if re.fullmatch(r"[A-Z][a-z]?", str(symbol)) else "X" for symbol in geometry["symbols"]]
    structure: dict[str, Any] = {"size": len(names), "names": names, "x": x, "y": y, "z": z}
    if geometry.get("cell"):
        structure["cell"] = [number for row in geometry["cell"] for number in row]
    return structure
