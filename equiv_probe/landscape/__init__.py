"""Gradients, curvature, lines, landscapes and a penalty: the decomposed loss as a function of the weights.

``ep.landscape`` is this package, and may be called: it is then :func:`equiv_probe.analysis.landscape`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv_probe.landscape.landscape_record import Landscape


class _Package(ModuleType):
    def __call__(self, *args: Any, **how: Any) -> Landscape:
        """See :func:`equiv_probe.analysis.landscape`."""
        from equiv_probe.landscape.loss_landscape import landscape

        return landscape(*args, **how)


sys.modules[__name__].__class__ = _Package
