"""Parquet holds what a data frame holds, of every kind of result that has rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

import equiv_probe as ep

from ..page_reports import audit_report
from .test_record import bridge

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.report.record import Record

RESULTS = {
    "audit": audit_report(),
    "comparison": ep.compare([audit_report(), audit_report(model="another")], ["a", "b"]),
    "a made-up kind, with a NaN": bridge(),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_what_is_saved_is_read_back(result: Record, tmp_path: Path) -> None:
    result.save(tmp_path / "found.parquet")
    read, expected = pd.read_parquet(tmp_path / "found.parquet"), result.to_dataframe()
    assert len(read) == len(result.rows()) > 0
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
