"""Fixtures for all tests: where the real data lie, and which tests need a device that is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu``, with the reason, where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real structures that ``EQUIV_PROBE_DATA`` names; skips if it is unset, fails if it is not there."""
    name = os.environ.get("EQUIV_PROBE_DATA")
    if not name:
        pytest.skip("EQUIV_PROBE_DATA is not set: no real structures to test on")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"EQUIV_PROBE_DATA={name} is not a folder")
    return folder


@pytest.fixture(scope="session")
def shared_file(shared_data: Path):
    """A function from a file's name to its path in the data folder; a file that is missing fails the test."""

    def find(name: str) -> Path:
        path = shared_data / name
        if not path.exists():
            pytest.fail(f"{path} is missing although EQUIV_PROBE_DATA is set")
        return path

    return find
