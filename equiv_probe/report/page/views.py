"""What the templates are given: one measurement with its answer, its tables and its figures by section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.page.figures import svg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes

    from equiv_probe.report.page.headline import Headline
    from equiv_probe.report.saving import Saved

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """A figure, its title, the sentence below it, and whether it is about what the headline is about."""

    title: str
    image: Markup
    caption: str
    main: bool = True


@dataclass(frozen=True)
class Rows:
    """A table, its title for those who do not see it, and the sentence above it."""

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class View:
    """One measurement on a page.

    Attributes:
        report: it.
        key: unlike any other's on the page; for ids.
        headline: the answer.
        template: of its article.
        name: of what was measured.
        source: on what.
        tables: of curvatures, of a line.
        figures: by section.
        dataset: for the 3D view, or None.
        protocol: how it was measured.
        failures: what could not be measured, with the reason.
        complete: False if it was interrupted.
        notes: what a reader must know.
        blind_spots: what it cannot tell.
    """

    report: Saved
    key: str
    headline: Headline | None
    template: str
    name: str
    source: str
    tables: list[Rows] = field(default_factory=list)
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    dataset: dict[str, Any] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True
    notes: list[str] = field(default_factory=list)
    blind_spots: list[str] = field(default_factory=list)


class Figures(Generic[T]):
    """Figures by section, each with an id of its own.

    Args:
        of: what they are drawn of.
        key: unlike that of any other measurement on the page.
    """

    def __init__(self, of: T, key: str) -> None:
        self.of, self.key = of, key
        self.by_section: dict[str, list[Figure]] = {}

    def add(
        self,
        section: str,
        draw: Callable[..., Axes],
        title: str,
        text: str,
        *args: Any,
        caption: str = "",
        main: bool = True,
        **how: Any,
    ) -> None:
        """Draw one, if the measurement holds what is to be drawn.

        Args:
            section: where it stands.
            draw: called with the measurement, ``args`` and ``ax``.
            title: above it.
            text: what a reader who does not see it should know; below it, too, unless there is a caption.
            args: for ``draw``.
            caption: below it.
            main: False folds it up.
            how: for :func:`equiv_probe.report.page.figures.svg`.
        """
        place = sum(map(len, self.by_section.values()))
        try:
            image = svg(lambda ax: draw(self.of, *args, ax=ax), f"{self.key}-f{place}", f"{title}. {text}", **how)
        except EquivProbeError as error:
            if not error.found.startswith("a report"):
                raise
            return  # of what was not measured there is no figure
        self.by_section.setdefault(section, []).append(Figure(title, image, caption or text, main))
