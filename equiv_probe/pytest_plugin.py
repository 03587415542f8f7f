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

import warnings
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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that has the marker for itself and asserts nothing by it."""
    marked = any(marker.name == "equivariant" for marker in item.own_markers)
    if marked and "equivariance" not in getattr(item, "fixturenames", ()):
        why = "is marked `equivariant`, and does not use the fixture `equivariance`: nothing would be asserted"
        pytest.fail(f"{item.name} {why}", pytrace=False)


@pytest.fixture
def equivariance(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """:func:`equiv_probe.testing.assert_equivariant` with the marker's options; the end of the session shows it all."""
    from equiv_probe.testing.checked import checked, require_equivariant

    options = _options(request.node)
    measured: list[Any] = []
    failed = request.session.testsfailed

    def check(model: Callable[..., Any], batch: Any, schema: Any = None, **given: Any) -> None:
        __tracebackhide__ = True
        found = checked(model, batch, schema, **{**options, **given})
        measured.extend(found)
        require_equivariant(found)

    yield check
    if not measured and request.session.testsfailed == failed:
        said = "the fixture `equivariance` was not called: nothing was asserted"
        warnings.warn(pytest.PytestWarning(said), stacklevel=1)
    if measured:
        from equiv_probe.report.stored_data import plain

        request.node.user_properties.append((_KEPT, [plain(one) for one in measured]))


def _options(node: pytest.Item) -> dict[str, Any]:
    """Options of all markers, of a module, a class and the test itself: the closest wins, option by option."""
    import inspect

    from equiv_probe.errors import EquivProbeError, did_you_mean
    from equiv_probe.testing.checked import checked

    known = [name for name, one in inspect.signature(checked).parameters.items() if one.kind is one.KEYWORD_ONLY]
    options: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("equivariant"))):
        options |= marker.kwargs
        for wrong in (*map(repr, marker.args), *(name for name in marker.kwargs if name not in known)):
            raise EquivProbeError(
                f"the marker equivariant with {wrong}",
                f"keywords among {', '.join(known)}{did_you_mean(wrong, known)}",
                '@pytest.mark.equivariant(group="O(3)")',
            )
    return options


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
