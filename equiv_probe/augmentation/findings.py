"""What a check of an augmentation found, thing by thing, and whether that is as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.table import Table

from equiv_probe.augmentation.uniformity import moments, recipe, uniformity
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.by_name import ByName
from equiv_probe.report.terminal import plain_text

if TYPE_CHECKING:
    from torch import Tensor

_MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]–[/]"}


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        name: of what was looked at, such as ``"Haar"`` or ``"labels: forces"``.
        passed: True or False; None where it could not be judged, which the sentence explains.
        sentence: what was found, in words.
        statistic: the number behind it, NaN where there is none.
        p_value: of the test, where it is one.
    """

    name: str
    passed: bool | None
    sentence: str
    statistic: float = float("nan")
    p_value: float | None = None


@dataclass(frozen=True)
class AugmentationCheck(ByName[Finding]):
    """What :func:`equiv_probe.check_augmentation` found.

    Attributes:
        findings: in the order in which they matter.
        rotations: that were recovered, ``(K, 3, 3)`` float64; of a dataset, relative to its first draw.
    """

    findings: tuple[Finding, ...]
    rotations: Tensor

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what could not be judged does not count."""
        return all(finding.passed is not False for finding in self.findings)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that did not pass."""
        return tuple(finding for finding in self.findings if finding.passed is False)

    def items(self) -> list[tuple[str, Finding]]:
        """The findings by name."""
        return [(finding.name, finding) for finding in self.findings]

    def raise_if_wrong(self) -> None:
        """Raise EquivProbeError unless ``ok``, to stop a training script or a test."""
        if not self.ok:
            raise EquivProbeError(
                "an augmentation with faults: " + "; ".join(f"{one.name}: {one.sentence}" for one in self.wrong),
                "Haar rotations, drawn anew for every structure, that rotate the labels along",
                "ep.augment(model) rotates inputs and outputs by itself, and leaves the data alone",
            )

    def __rich__(self) -> Table:
        count = len(self.rotations)
        faults = f"{len(self.wrong)} fault{'s' * (len(self.wrong) != 1)}"
        table = Table(
            title=f"Augmentation, {count} draws: {'ok' if self.ok else faults}", title_justify="left", box=None
        )
        for header in ("", "what", "found", "p"):
            table.add_column(header, overflow="fold")
        for one in self.findings:
            p = "" if one.p_value is None else f"{one.p_value:.2g}"
            table.add_row(_MARKS[one.passed], one.name, one.sentence.replace("[", r"\["), p)
        return table

    def __str__(self) -> str:
        return plain_text(self)


SAME = "every draw gives the same rotation: it is cached, or seeded anew"
NEW = "every draw is a new rotation"


def uniform(name: str, matrices: Tensor, *, improper: bool, absolute: bool, alpha: float) -> Finding:
    """Whether drawn rotations ``(K, 3, 3)``, known themselves if ``absolute``, else up to a shared one, are Haar."""
    proper, test = matrices * torch.linalg.det(matrices).sign()[:, None, None], uniformity(matrices, improper=improper)
    passed = test.p_value >= alpha
    parts = ["rotations are uniform on SO(3)" if passed else f"rotations are not uniform on SO(3), at {test.part}"]
    parts += [] if passed else [recipe(proper, absolute=absolute)]
    parts += [moments(proper)] if absolute else []
    return Finding(name, passed, "; ".join(filter(None, parts)), test.statistic, test.p_value)


def without_improper(matrices: Tensor, *, improper: bool) -> tuple[Finding, Tensor]:
    """Whether drawn rotations ``(K, 3, 3)`` are proper, or need not be, and the proper ones left of them."""
    signs = torch.linalg.det(matrices).sign()
    share = float((signs < 0).double().mean())
    sentence = f"{100 * share:.0f} % of the draws are improper (determinant −1)" if share else "determinant +1, always"
    if share and not improper:
        sentence += ": mirror images of chiral molecules; if that is meant, improper=True"
    return Finding("proper", improper or share == 0, sentence, share), matrices * signs[:, None, None]
