"""What is known of one quantity: its equivariance error, where that sits, and its part of a loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.record import Part
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAN_SPAN = (math.nan, math.nan)
_ANGLES, _CELLS = 9, 48
_PARTS = {"power", "stderr", "rest", "rest_stderr", "by_angle", "by_axis"}


if TYPE_CHECKING:
    Spread = dict[str, Any]
    OfElement = dict[str, Any]
    WorstAtom = dict[str, Any]
    Angular = dict[str, Any]
else:  # what is read from files is held to this

    class Spread(TypedDict, total=False):
        """Quantiles and the maximum of root errors, and of what the largest is."""

        q5: float
        q25: float
        q50: float
        q75: float
        q95: float
        max: float
        worst: str

    class OfElement(TypedDict):
        """Root error and number of the atoms of a chemical element."""

        rms: float
        atoms: float

    class WorstAtom(TypedDict):
        """An atom and its root error."""

        structure: str
        atom: int
        element: str
        rms: float

    class Angular(TypedDict, total=False):
        """The angular spectrum and the variogram of an error: all of it, or nothing."""

        power: list[float]
        stderr: list[float]
        rest: float
        rest_stderr: float
        by_angle: list[float]
        by_axis: list[float]


class Labelled(Part, frozen=True):
    """``L_total = L_mean + L_equiv`` against reference values, with standard errors and 95 % intervals."""

    loss: str
    unit: str
    structures: int
    total: float
    total_stderr: float
    mean: float
    mean_stderr: float
    equiv: float
    equiv_stderr: float
    equiv_interval: tuple[float, float]
    share: float
    share_stderr: float
    share_interval: tuple[float, float]


class Measured(Part, frozen=True):
    """One quantity over all structures; errors in ``unit``, losses in ``labelled.unit``. NaN: not measured.

    Attributes:
        name: of the quantity.
        unit: of ``rms``, ``floor``, ``nondeterminism``, quantiles and maxima.
        structures: how many it was measured on.
        rms: root of the label-free ``L_equiv`` (squared error, mean over components).
        rms_interval: its 95 % interval.
        equiv: ``L_equiv`` itself, in ``unit`` squared.
        equiv_stderr: its standard error.
        relative: ``rms`` over the root mean square of the twirled prediction.
        floor: what the same measurement reads from rounding alone: from inputs that differ by rounding, and not less
            than the resolution of the numbers themselves.
        nondeterminism: what it reads from evaluating the same input again, in a batch of its own.
        verdict: one of the kinds of :mod:`equiv_probe.estimation.verdict`.
        sentence: the verdict in words.
        over_structures: quantiles and maximum of the root error of structures, and the ``worst``.
        over_rotations: quantiles and maximum of the root deviation of single rotations.
        largest: largest deviation of one atom's value (or of the structure's) in any rotation.
        by_element: root error and number of atoms by element.
        worst_atoms: structure, atom index, element and root error.
        labelled: the decomposition against reference values, if there are any.
        angular: the spectrum ``power`` of degrees 1 … and the ``rest`` above, with their ``stderr``; and by angle and
            by axis of the rotation between two predictions half their mean square difference, ``by_angle`` and
            ``by_axis`` (:mod:`equiv_probe.estimation.variogram`). All in ``unit`` squared; empty where it was not
            measured.
        step: of a training run, after how many of its steps it was measured last.
    """

    name: str
    unit: str
    structures: int
    rms: float
    rms_interval: tuple[float, float]
    equiv: float
    equiv_stderr: float
    relative: float
    floor: float
    nondeterminism: float
    verdict: str
    sentence: str
    over_structures: Spread = msgspec.field(default_factory=dict)
    over_rotations: Spread = msgspec.field(default_factory=dict)
    largest: float = math.nan
    by_element: dict[str, OfElement] = msgspec.field(default_factory=dict)
    worst_atoms: list[WorstAtom] = msgspec.field(default_factory=list)
    labelled: Labelled | None = None
    angular: Angular = msgspec.field(default_factory=dict)
    step: int | None = None

    @property
    def title(self) -> str:
        """The name for people."""
        return shown(self.name)

    def __post_init__(self) -> None:
        """Refuse a part of an angular spectrum."""
        found: dict[str, Any] = dict(self.angular)
        if not found:
            return
        if missing := _PARTS - found.keys():
            raise ValueError(f"angular without {', '.join(sorted(missing))}")
        lengths = {"stderr": len(found["power"]), "by_angle": _ANGLES, "by_axis": _CELLS}
        for name, length in lengths.items():
            if len(found[name]) != length:
                raise ValueError(f"angular.{name} of {len(found[name])} numbers instead of {length}")

    @property
    def highest_floor(self) -> float:
        """The higher of the two floors: what ``rms`` is judged beside; NaN if neither was measured."""
        return max((floor for floor in (self.floor, self.nondeterminism) if math.isfinite(floor)), default=math.nan)


def chosen(
    measured: Sequence[Measured],
    quantity: str | None,
    fits: Callable[[Measured], bool] = lambda _: True,
    wanted: str = "",
) -> Measured:
    """The quantity that was asked for; else forces if they fit, else the first that does.

    Raises:
        EquivProbeError: it is not there, or nothing there fits.
    """
    having = {m.name: m for m in measured if fits(m)}
    name = quantity or ("forces" if "forces" in having else next(iter(having), None))
    if name not in having:
        names = ", ".join(m.name for m in measured) or "nothing"
        raise EquivProbeError(f"a report of {names}", quantity or wanted or "a quantity")
    return having[name]


def labelled(measured: Sequence[Measured]) -> list[tuple[str, Labelled]]:
    """The decomposition of every loss, by quantity."""
    return [(m.title, m.labelled) for m in measured if m.labelled is not None]
