"""The pytest plugin: a fixture ``equivariance`` that asserts and remembers, and a table at the end of the session.

Nothing heavy is imported before a test asks for the fixture.

    def test_forces(equivariance):
        equivariance(model, batch, schema)

    @pytest.mark.equivariant(group="O(3)", rtol=1e-4)
    def test_with_reflections(equivariance):
        equivariance(model, batch, schema)

``--equivariance-report=page.html`` (or ``.json``, ``.csv``) saves what was measured. With pytest-xdist too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEPT = "equiv_probe"
"""Under this name a test's report carries what it measured."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the report."""
    parser.getgroup("equivariance").addoption(
        "--equivariance-report",
        metavar="FILE",
        help="save what the fixture `equivariance` measured as .html, .json or .csv",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "equivariant(**options): options of assert_equivariant for the fixture `equivariance`: group, rtol …"
    )


@pytest.fixture
def equivariance(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """:func:`equiv_probe.testing.assert_equivariant` with the marker's options; the end of the session shows it all."""
    from equiv_probe.testing.checked import checked, require_equivariant

    marker = request.node.get_closest_marker("equivariant")
    options = dict(marker.kwargs) if marker else {}
    measured: list[Any] = []

    def check(model: Callable[..., Any], batch: Any, schema: Any = None, **given: Any) -> None:
        __tracebackhide__ = True
        found = checked(model, batch, schema, **{**options, **given})
        measured.extend(found)
        require_equivariant(found)

    yield check
    if measured:
        from equiv_probe.report.stored_data import plain

        request.node.user_properties.append((_KEPT, [plain(one) for one in measured]))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show and save what was measured."""
    found = [
        (report.nodeid, value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in getattr(report, "user_properties", ())
        if name == _KEPT
    ]
    path = config.getoption("--equivariance-report")
    if not found:
        if path:
            terminalreporter.write_line(f"{path} was not written: no test used the fixture `equivariance`")
        return
    from equiv_probe.report.stored_data import converted
    from equiv_probe.testing.compared import Checked
    from equiv_probe.testing.tested import Tested, TestedModels, versions

    result = TestedModels([Tested(name, [converted(one, Checked) for one in each]) for name, each in found], versions())
    terminalreporter.section("equivariance")
    terminalreporter.write_line(str(result))
    if path:
        result.save(path)
        terminalreporter.write_line(f"saved as {path}")
