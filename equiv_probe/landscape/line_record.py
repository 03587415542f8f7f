"""The three losses along a line in parameter space: with which power of the distance do they grow?"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from msgspec import field

from equiv_probe.deprecation import warn
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape import line_words, plots
from equiv_probe.landscape.decomposed_loss import LOSSES
from equiv_probe.landscape.growth_exponent import Exponent, growth_exponent
from equiv_probe.report.document import Document, Figure, Section, method
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Part, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_COLUMNS = [f"L_{name}{end}" for name in LOSSES for end in ("", "_stderr")]


class Exponents(Part, frozen=True):
    """The powers with which the losses grow."""

    total: Exponent
    mean: Exponent
    equiv: Exponent


class Line(Record, frozen=True, dict=True):
    """Losses at ``θ + t d``.

    What :func:`equiv_probe.along_line` returns holds the losses of every structure or set of rotations too,
    :attr:`samples`; a file does not.

    Attributes:
        direction: which.
        blocks: what standard errors are over: ``"structures"``, ``"rotations"``, or nothing.
        sets: of rotations.
        length: ``‖d‖ / ‖θ‖``.
        seed: of the random numbers.
        at: the T values of t, rising, 0 among them.
        L_total, L_mean, L_equiv: at each t.
        L_total_stderr, L_mean_stderr, L_equiv_stderr: standard errors; NaN where nothing gives them.
        exponents: the powers with which the losses grow.
        floor: what a change of every weight in its last place makes of the three.
        name: of whose weights; may be empty.
        protocol: how it was measured.
    """

    kind: ClassVar[str] = "line"

    direction: str
    blocks: str = field(name="over")
    sets: int
    length: float
    seed: int
    at: list[float] = field(name="t")
    L_total: list[float]
    L_mean: list[float]
    L_equiv: list[float]
    L_total_stderr: list[float]
    L_mean_stderr: list[float]
    L_equiv_stderr: list[float]
    exponents: Exponents
    floor: list[float] = field(default_factory=list)
    name: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no line."""
        if not (all(map(math.isfinite, self.at)) and sorted(set(self.at)) == self.at and 0 in self.at):
            raise ValueError(f"t, {len(self.at)} numbers that do not rise with 0 among them")
        for name in _COLUMNS:
            if (count := len(getattr(self, name))) != len(self.at):
                raise ValueError(f"{name}, {count} numbers at {len(self.at)} places")

    @classmethod
    def of(cls, t: Values, samples: Values, floor: Values, *, blocks: str, sets: int, **rest: Any) -> Self:
        """From ``samples (T, U, 3)`` of every structure or set of rotations, structures of all sets in turn."""
        columns: dict[str, Any] = {}
        exponents: dict[str, Exponent] = {}
        for k, name in enumerate(LOSSES):
            independent = _independent(samples[:, :, k], blocks, sets)
            values = samples[:, :, k].mean(1)
            columns |= {f"L_{name}": values.tolist(), f"L_{name}_stderr": _stderr(independent).tolist()}
            change = (independent - independent[t == 0]).mean(1)
            exponents[name] = growth_exponent(t[t != 0], change[t != 0], float(floor[k]))
        powers = Exponents(**exponents)
        found = cls(blocks=blocks, sets=sets, at=t.tolist(), floor=floor.tolist(), exponents=powers, **columns, **rest)
        found.__dict__["_samples"] = samples
        return found

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the same entries, without a kind."""
        return stored

    @property
    def t(self) -> Values:
        """Where, ``(T,)``, rising, 0 among them."""
        return np.array(self.at)

    @property
    def total(self) -> Values:
        """``L_total``, ``(T,)``."""
        return np.array(self.L_total)

    @property
    def mean(self) -> Values:
        """``L_mean``, ``(T,)``."""
        return np.array(self.L_mean)

    @property
    def equiv(self) -> Values:
        """``L_equiv``, ``(T,)``."""
        return np.array(self.L_equiv)

    @property
    def over(self) -> str:
        """The old name of :attr:`blocks`."""
        warn("Line.over is now called Line.blocks")
        return self.blocks

    @property
    def origin(self) -> int:
        """The place of t = 0."""
        return self.at.index(0)

    @property
    def samples(self) -> Values:
        """``L_total``, ``L_mean``, ``L_equiv`` of every structure or set of rotations, ``(T, U, 3)``.

        Raises:
            EquivProbeError: the line was read from a file, which does not hold them.
        """
        if "_samples" not in self.__dict__:
            raise EquivProbeError("a line from a file", "one just computed", "equiv_probe.along_line(...)")
        return np.asarray(self.__dict__["_samples"])

    def stderr(self, loss: str) -> Values:
        """Standard errors of one loss, ``(T,)``; NaN where there is nothing to estimate them from.

        Raises:
            EquivProbeError: another loss than ``"total"``, ``"mean"`` and ``"equiv"``.
        """
        return np.array(getattr(self, f"L_{_known(loss)}_stderr"))

    def change(self, loss: str) -> tuple[Values, Values]:
        """``L(t) − L(0)`` and its standard errors, each ``(T,)``; of the same structures and rotations.

        Raises:
            EquivProbeError: another loss, or the line was read from a file.
        """
        samples = _independent(self.samples[:, :, LOSSES.index(_known(loss))], self.blocks, self.sets)
        differences = samples - samples[self.origin]
        return differences.mean(1), _stderr(differences)

    def exponent(self, loss: str = "equiv") -> Exponent:
        """The power p of ``L(t) − L(0) = b |t|^p`` at small t, of ``"total"``, ``"mean"`` or ``"equiv"``.

        Which t, and what the interval holds: :mod:`equiv_probe.landscape.growth_exponent`. It is of the structures and
        rotations at hand: what they share is no noise along the line.

        Raises:
            EquivProbeError: another loss.
        """
        found: Exponent = getattr(self.exponents, _known(loss))
        return found

    def named(self) -> Iterator[tuple[str, Values, Values]]:
        """Name, values and standard errors of the three losses."""
        for name in LOSSES:
            yield f"L_{name}", np.array(getattr(self, f"L_{name}")), self.stderr(name)

    def document(self) -> Document:
        """The power of ``L_equiv`` and of the others, then the losses along the line, then all numbers."""
        losses, where = list(self.named()), line_words.direction(self.direction)
        protocol = {
            "direction": where,
            "t = 1": f"{number(self.length)} of the weights' length",
            "standard errors": line_words.BLOCKS.get(self.blocks, "none: one set of rotations"),
            "seed": self.seed,
            **self.protocol,
        }
        return Document(
            self.name or "Losses along a line",
            f"a line in the space of the weights: {where}",
            [
                line_words.headline(losses, self.origin, self._exponents, self.length),
                Section("What does it look like?", self._figures()),
                Section("All numbers", [line_words.table(losses, self.at, self._exponents, self.blocks)]),
                *method(protocol, blind_spots=line_words.BLIND_SPOTS),
            ],
        )

    @property
    def _exponents(self) -> dict[str, Exponent]:
        return {f"L_{name}": self.exponent(name) for name in LOSSES}

    def _figures(self) -> list[Figure]:
        losses = list(self.named())
        text = line_words.course(self.t, losses, self.blocks)
        made = [Figure("Along the line", partial(plots.profile, self.t, losses), text)]
        if any((abs(values - values[self.origin]) > 0).any() for _, values, _ in losses):
            draw = partial(plots.growth, self.t, losses, self._exponents)
            made.append(Figure("Away from where it is", draw, line_words.powers(self._exponents)))
        return made

    def rows(self) -> list[dict[str, Any]]:
        """A row for every t."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return [{"t": t, **{name: one[k] for name, one in columns.items()}} for k, t in enumerate(self.at)]

    def plot(self, ax: Axes | None = None, *, growth: bool = False) -> Axes:
        """The profile, or with ``growth`` the change on logarithmic axes; see :mod:`equiv_probe.landscape.plots`."""
        losses = list(self.named())
        return plots.growth(self.t, losses, self._exponents, ax) if growth else plots.profile(self.t, losses, ax)


def _known(loss: str) -> Any:
    if loss not in LOSSES:
        raise EquivProbeError(f"loss={loss!r}", ", ".join(LOSSES))
    return loss


def _independent(samples: Values, blocks: str, sets: int) -> Values:
    """Independent estimates, ``(T, n)``: of structures, or of sets of rotations."""
    if blocks == "structures" and sets > 1:  # the same structures under several sets of rotations
        samples = samples.reshape(len(samples), sets, -1).mean(1)
    return np.asarray(samples)


def _stderr(samples: Values) -> Values:
    count = samples.shape[1]
    if count < 2:
        return np.full(len(samples), math.nan)
    return np.asarray(samples.std(1, ddof=1) / math.sqrt(count))
