"""Results that hold others by name are mappings in all the ways that a user tries."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import equiv_probe
from equiv_probe.augmentation.findings import AugmentationCheck, Finding
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.measured_gradients import Gradients
from equiv_probe.report.by_name import ByName
from equiv_probe.results.measured import Measured
from equiv_probe.results.report import Report
from equiv_probe.scaling.table import Table


def measured(name: str) -> Measured:
    numbers = dict.fromkeys(("rms", "equiv", "equiv_stderr", "relative", "floor", "nondeterminism"), 0.0)
    return Measured(name, "meV", 1, rms_interval=(0.0, 0.0), verdict="round-off", sentence="", **numbers)


KINDS: dict[str, Any] = {
    "a report": Report("a model", "somewhere", {}, [measured("energy"), measured("forces")]),
    "findings": AugmentationCheck(tuple(Finding(name, True, "") for name in ("energy", "forces")), torch.eye(3)[None]),
    "gradients": Gradients({"energy": None, "forces": None}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("given", KINDS.values(), ids=KINDS.keys())
def test_it_is_a_mapping(given: Any) -> None:
    assert list(given) == given.keys() == ["energy", "forces"]
    assert dict(given) == dict(given.items())
    assert [given[name] for name in given] == [one for _, one in given.items()]
    assert "forces" in given
    assert "force" not in given
    for wrong in ("force", 0, None):
        with pytest.raises(KeyError):
            given[wrong]
        with pytest.raises(EquivProbeError, match=r"expected one of \['energy', 'forces'\]"):
            given[wrong]
    with pytest.raises(EquivProbeError, match=r"^found no 'force'; did you mean 'forces'\?"):
        given["force"]


def test_an_empty_one_is_a_mapping_too_and_is_no_false() -> None:
    empty = Report("a model", "somewhere", {}, [])
    assert list(empty) == []
    assert empty, "a report without measurements is a report"


def test_columns_are_listed_and_not_counted() -> None:
    assert list(Table({"steps": np.ones(2), "loss": np.ones(2)})) == ["steps", "loss"]


def test_no_result_is_read_by_name_that_cannot_be_listed() -> None:
    """Without ``__iter__`` Python counts from zero, and the first of these is an error that says nothing."""
    for module in pkgutil.walk_packages(equiv_probe.__path__, "equiv_probe."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name and "__getitem__" in vars(kind) and not hasattr(kind, "__len__"):
                assert hasattr(kind, "__iter__"), f"{module.name}.{name}"

    @dataclass(frozen=True)
    class Mine(ByName[int]):
        def items(self) -> list[tuple[str, int]]:
            return [("a", 1)]

    assert dict(Mine()) == {"a": 1}
