"""Every test here trains with somebody else's package: marked ``host``, skipped where that is not installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture
def data() -> Path:
    """The folder of real structures and labels."""
    where = os.environ.get("EQUIV_PROBE_DATA")
    if not where:
        pytest.skip("EQUIV_PROBE_DATA is not set: no real structures to train on")
    return Path(where)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
