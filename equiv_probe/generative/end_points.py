"""What is known of one output of a sampler: how far end points of rotated noise, rotated back, lie apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from equiv_probe.report.record import Part
from equiv_probe.results.angle_bins import AngleBin

if TYPE_CHECKING:
    Quantiles = dict[str, float]
    OfSample = dict[str, float]
    OnPath = dict[str, float]
else:  # what is read from files is held to this

    class _Quantiles(TypedDict):
        q50: float
        q95: float
        max: float

    class Quantiles(_Quantiles, total=False):
        """Quantiles and the maximum of deviations, and which sample the largest is of."""

        worst: float

    class OfSample(TypedDict):
        """One sample's deviation, its largest in a single rotation, and its floors."""

        sample: int
        rms: float
        max: float
        floor: float
        nondeterminism: float

    OnPath = TypedDict("OnPath", {"point": int, "rms": float, "floor": float, "other noise": float})


class EndPoints(Part, frozen=True):
    """Deviations of one output: root mean squares over atoms, in ``unit``; NaN where not measured.

    Attributes:
        name: of the output.
        unit: of all lengths.
        samples: how many it was measured on.
        rms: deviation of rotated noise's end points, rotated back, from the unrotated noise's: over rotations and
            samples.
        rms_interval: its 95 % interval.
        spread: of the orbit about its mean, without bias: ``rms / √2`` but for the luck of the unrotated frame.
        scale: how far end points of different noise lie apart.
        floor: what noise that was rotated there and back again reads, and not less than the resolution of the numbers.
        nondeterminism: what the same run reads, run again.
        verdict: one of the kinds of :mod:`equiv_probe.estimation.verdict`.
        sentence: the verdict in words.
        over_samples: quantiles, maximum and worst of the samples' deviations.
        over_rotations: quantiles and maximum of single rotations and samples.
        by_sample: deviation, floor and non-determinism of each sample.
        along_path: deviation and floor at each point of the path, if it was asked for.
        by_angle: deviation by the angle of the rotation, in bins from ``low`` to ``high`` degrees, with how many
            rotations of a sample are in each as ``count``; empty for improper rotations, which have no angle.
        law: the test in distribution, if there was one: ``p_value``, ``distance``, ``samples`` of each kind, how many
            units were ``swapped``, and whether these were runs, ``by_run``.
    """

    name: str
    unit: str
    samples: int
    rms: float
    rms_interval: tuple[float, float]
    spread: float
    scale: float
    floor: float
    nondeterminism: float
    verdict: str
    sentence: str
    over_samples: Quantiles
    over_rotations: Quantiles
    by_sample: list[OfSample]
    along_path: list[OnPath] = msgspec.field(default_factory=list)
    by_angle: list[AngleBin] = msgspec.field(default_factory=list)
    law: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def highest_floor(self) -> float:
        """The higher of the two floors: what ``rms`` is judged beside; NaN if neither was measured."""
        return max((floor for floor in (self.floor, self.nondeterminism) if math.isfinite(floor)), default=math.nan)
