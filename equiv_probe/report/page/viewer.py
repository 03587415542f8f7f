"""The worst structures for chemiscope's 3D viewer: its code, and a report's atoms coloured by their error."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import math
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.report.stored import finite

if TYPE_CHECKING:
    from equiv_probe.results.report import Report

MISSING = "pip install 'equiv-probe[report]' adds a 3D view of them to this page."
MOST_ATOMS = 20_000
"""On one page, of all structures."""


@dataclass(frozen=True)
class Code:
    """chemiscope's JavaScript.

    Attributes:
        text: as it runs.
        version: of chemiscope.
        licence: to be passed on with it.
    """

    text: str
    version: str
    licence: str

    @cached_property
    def packed(self) -> str:
        """Gzip in base64: a third of the size, and nothing in it can end a script element."""
        return base64.b64encode(gzip.compress(self.text.encode(), mtime=0)).decode()


@cache
def code() -> Code | None:
    """Chemiscope's code from the installed package, which is not imported; None if it is not there."""
    found = importlib.util.find_spec("chemiscope")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "sphinx" / "static" / "chemiscope.min.js"
    if not path.exists():
        return None
    about = metadata.distribution("chemiscope")
    licence = next((file.read_text() for file in about.files or [] if file.name.upper().startswith("LICENSE")), "")
    return Code(path.read_text(encoding="utf-8"), about.version, licence)


def shown(report: Report, about: str) -> list[dict[str, Any]]:
    """Records of the structures that can be shown, the worst of one quantity first.

    Args:
        report: of an audit.
        about: the quantity.
    """
    having = [record for record in report.structures if _drawable(record.get("geometry"))]
    having.sort(key=lambda record: rank(record, about))
    kept, atoms = [], 0
    for record in having:
        count = len(record["geometry"]["symbols"])
        if atoms + count <= MOST_ATOMS:  # one that is too large leaves room for the others
            kept.append(record)
            atoms += count
    return kept


def rank(record: dict[str, Any], about: str) -> float:
    """What structures are sorted by: the worst in a quantity first, those without it last."""
    root = finite(record["quantities"].get(about, {}).get("rms"))
    return -root if math.isfinite(root) else math.inf


def dataset(report: Report, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What chemiscope is given; None if there is nothing to show.

    Names from files stay out: structures are known by their place, and what goes in is numbers and chemical symbols.

    Args:
        report: for the units.
        records: with geometry.
    """
    if not records:
        return None
    structures = [_structure(record["geometry"]) for record in records]
    properties: dict[str, dict[str, Any]] = {}
    for m in report.measured:
        values = [_by_atom(record, m.name) for record in records]
        if all(one is not None for one in values):
            name = f"{_plain(m.name)} error, {_plain(m.unit)}"
            flat = [x for one in values for x in one or []]
            properties[name] = {"target": "atom", "values": flat}
    places = [(i, j) for i, record in enumerate(records) for j in range(len(record["geometry"]["symbols"]))]
    view: dict[str, Any] = {"environments": {"activated": False}, "unitCell": any("cell" in s for s in structures)}
    if properties:
        view["color"] = {"property": next(iter(properties)), "palette": "cividis", "min": 0}
        view["color"]["max"] = max(next(iter(properties.values()))["values"], default=1.0) or 1.0
    return {
        "meta": {"name": "worst structures"},
        "structures": structures,
        "environments": [{"structure": i, "center": j, "cutoff": 3.5} for i, j in places],
        "properties": properties,
        "settings": {"target": "structure", "structure": [view]},
    }


def _drawable(geometry: Any) -> bool:
    """Reports come from files: what is not a geometry is not drawn."""
    if not isinstance(geometry, dict):
        return False
    symbols, positions, cell = (geometry.get(key) for key in ("symbols", "positions", "cell"))
    if not (isinstance(symbols, list) and isinstance(positions, list) and len(symbols) == len(positions) > 0):
        return False
    if cell is not None and not (isinstance(cell, list) and len(cell) == 3):
        return False
    rows = [*positions, *(cell or [])]
    return all(isinstance(row, list) and len(row) == 3 and all(map(_is_number, row)) for row in rows)


def _structure(geometry: dict[str, Any]) -> dict[str, Any]:
    x, y, z = (list(column) for column in zip(*geometry["positions"], strict=True))
    names = [symbol if re.fullmatch(r"[A-Z][a-z]?", str(symbol)) else "X" for symbol in geometry["symbols"]]
    structure: dict[str, Any] = {"size": len(names), "names": names, "x": x, "y": y, "z": z}
    if geometry.get("cell"):
        structure["cell"] = [number for row in geometry["cell"] for number in row]
    return structure


def _by_atom(record: dict[str, Any], name: str) -> list[float] | None:
    values = record["quantities"].get(name, {}).get("per_atom")
    fits = isinstance(values, list) and len(values) == len(record["geometry"]["symbols"])
    return values if fits and all(map(_is_number, values)) else None


def _is_number(value: Any) -> bool:
    return math.isfinite(finite(value))


def _plain(name: str) -> str:
    return re.sub(r"[^\w /.²³·-]", "", name) or "quantity"
