"""The pytest plugin in sessions of its own: fixture, marker, table, report, workers, and nothing heavy imported."""

from __future__ import annotations

from pathlib import Path

import pytest

import equiv_probe as ep

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

SUITE = """
import pytest, torch, equiv_probe as ep

schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
batch = {"pos": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}

def springs(inputs):
    return {"forces": inputs["pos"] - inputs["pos"].mean(0)}

def handed(inputs):
    x = springs(inputs)["forces"]
    return {"forces": x + torch.linalg.cross(x, x.roll(1, 0))}

def test_rotations(equivariance):
    equivariance(handed, batch, schema)

@pytest.mark.equivariant(group="O(3)")
def test_reflections(equivariance):
    equivariance(springs, batch, schema)
    equivariance(handed, batch, schema)

@pytest.mark.equivariant(group="translation")
def test_a_group_given_in_the_test_wins(equivariance):
    equivariance(springs, batch, schema, group="SO(3)", atol=1e-4)

def test_of_something_else():
    pass
"""


def run(pytester: pytest.Pytester, *arguments: str, suite: str = SUITE) -> pytest.RunResult:
    pytester.makepyfile(suite)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fails_says_why_and_all_is_shown_and_saved(pytester: pytest.Pytester, workers: int) -> None:
    result = run(pytester, f"--numprocesses={workers}", "--equivariance-report=found.json")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: 'forces' is not equivariant under O(3)*"])
    result.stdout.fnmatch_lines(["*= equivariance =*", "*1 of 4 outputs that were checked is not equivariant*"])
    found = ep.load(pytester.path / "found.json")
    rows = [(row["test"].rpartition("::")[2], row["group"], bool(row["wrong"])) for row in found.rows()]
    assert sorted(rows) == [
        ("test_a_group_given_in_the_test_wins", "SO(3)", False),
        ("test_reflections", "O(3)", False),
        ("test_reflections", "O(3)", True),
        ("test_rotations", "SO(3)", False),
    ]
    worst = max(found.rows(), key=lambda row: row["error"])
    assert worst["wrong"]
    assert worst["error"] > 1e4 * worst["allowed"]


def test_a_page(pytester: pytest.Pytester) -> None:
    run(pytester, "--equivariance-report=found.html").stdout.fnmatch_lines(["saved as found.html"])
    page = (pytester.path / "found.html").read_text()
    assert "test_reflections" in page
    assert "1 of 4 outputs" in page


def test_sessions_without_it_are_as_they_were(pytester: pytest.Pytester) -> None:
    suite = "import sys\ndef test_nothing_heavy():\n    assert not {'torch', 'numpy', 'msgspec'} & set(sys.modules)\n"
    result = run(pytester, "--equivariance-report=found.html", suite=suite)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= equivariance =*")
    result.stdout.fnmatch_lines(["found.html was not written: no test used the fixture `equivariance`"])
    assert not Path(pytester.path / "found.html").exists()


MARKERS = (
    SUITE
    + """
@pytest.mark.equivariant(group="O(3)", rotations=6)
class TestOfAClass:
    @pytest.mark.equivariant(atol=1e-4)
    def test_both_markers_count(self, equivariance):
        equivariance(handed, batch, schema)

    def test_plain(self):
        pass

@pytest.mark.equivariant("O(3)")
def test_no_keyword(equivariance):
    equivariance(handed, batch, schema)

@pytest.mark.equivariant(gruop="O(3)")
def test_misspelled(equivariance):
    equivariance(handed, batch, schema)

@pytest.mark.equivariant(group="O(3)")
def test_that_asserts_nothing():
    pass

def test_that_calls_nothing(equivariance):
    pass
"""
)


def test_a_marker_that_would_assert_nothing_is_no_pass(pytester: pytest.Pytester) -> None:
    result = run(pytester, suite=MARKERS)
    result.assert_outcomes(passed=5, failed=2, errors=3, warnings=1)
    result.stdout.fnmatch_lines(["*'forces' is not equivariant under O(3)*the tolerance is 1.0e-4*"])
    assert "found the marker equivariant with 'O(3)'" in str(result.stdout)
    assert "did you mean 'group'?" in str(result.stdout)
    assert "does not use the fixture `equivariance`" in str(result.stdout)
    assert "was not called: nothing was asserted" in str(result.stdout)
