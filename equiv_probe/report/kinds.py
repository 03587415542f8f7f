"""The registry of kinds of results: where each is, so that it is imported when a file of it is met, and not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.stored_data import FIX

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACES: dict[str, str] = {
    "report": "equiv_probe.results.report:Report",
    "bins": "equiv_probe.results.over_time:OverTime",
    "fit": "equiv_probe.scaling.law:Fit",
    "allocation": "equiv_probe.scaling.allocation:Allocation",
    "data_efficiency": "equiv_probe.scaling.data_efficiency:DataEfficiency",
    "gap": "equiv_probe.scaling.gap_result:Gap",
    "forecast": "equiv_probe.scaling.forecast_result:Forecast",
    "scaling": "equiv_probe.scaling.results:Results",
    "gradients": "equiv_probe.results.gradient_record:GradientRecord",
    "curvature": "equiv_probe.landscape.curvature_record:Curvature",
    "line": "equiv_probe.landscape.line_record:Line",
    "landscape": "equiv_probe.landscape.landscape_record:Landscape",
    "comparison": "equiv_probe.results.comparison:Comparison",
    "sampler": "equiv_probe.generative.sampler_report:SamplerAudit",
    "diagnosis": "equiv_probe.diagnosis.diagnosis:Diagnosis",
    "trace": "equiv_probe.diagnosis.layers.record:Trace",
    "tests": "equiv_probe.testing.tested:TestedModels",
    "grid": "equiv_probe.voxels.grid_report:GridAudit",
}
_FIRST = {"sampler": "sampler", "cube": "grid", "matrix": "curvature", "direction": "line", "contrasts": "comparison"}
"""Entries of files of version 1, which do not name their kind, that only one kind has."""


def register(kind: str, place: str) -> None:
    """Make a kind of result known by its name in files and the ``"module:Class"`` of its record."""
    _PLACES[kind] = place


def class_of(kind: Any) -> Any:
    """The class of a kind, imported.

    Raises:
        EquivProbeError: there is no such kind.
    """
    if not isinstance(kind, str) or kind not in _PLACES:
        kinds = ", ".join(sorted(_PLACES))
        raise EquivProbeError(f"a result of kind {str(kind)[:40]!r}", f"one of {kinds}", FIX)
    module, _, name = _PLACES[kind].partition(":")
    return getattr(import_module(module), name)


def kind_of(stored: Mapping[str, Any]) -> Any:
    """The kind that stored data names; those of version 1 name none, and are known by their entries."""
    if "kind" in stored and stored.get("schema_version") != 1:
        return stored["kind"]
    return next((kind for name, kind in _FIRST.items() if name in stored), "report")
