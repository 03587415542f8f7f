"""The experiments that need nothing but a model, its input and the schema; plugins add those of their framework."""

from __future__ import annotations

from equiv_probe.diagnosis.conventions.order_of_axes import order_of_axes
from equiv_probe.diagnosis.conventions.usual_mistakes import USUAL_MISTAKES
from equiv_probe.diagnosis.experiment import Experiment
from equiv_probe.diagnosis.group.translation import translation
from equiv_probe.diagnosis.numerics.chance import chance

EXPERIMENTS: tuple[Experiment, ...] = (chance, *USUAL_MISTAKES, order_of_axes, translation)
"""Of equal cost, in the order in which they are tried: what makes other experiments meaningless comes first."""
