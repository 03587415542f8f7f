"""Tools for research: how the parts of the loss depend on the weights, and how a model changes under small rotations.

What trains and audits needs none of this. Nothing is defined here: the module only gathers the names.

>>> import torch, equiv_probe as ep
>>> model = torch.nn.Linear(3, 3, bias=False).double()
>>> x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
>>> loss = ep.analysis.OrbitLoss(model, x, 2 * x, schema, center="origin")
>>> bowls = ep.analysis.curvature(loss, trace_probes=2)  # L_equiv bends along all 9 weights but the trace
>>> round(bowls.equiv.rank.value), round(bowls.total.rank.value)
(8, 9)
"""

from equiv_probe.landscape.curvature import curvature
from equiv_probe.landscape.curvature_record import Curvature
from equiv_probe.landscape.gradients import gradients
from equiv_probe.landscape.landscape_record import Landscape
from equiv_probe.landscape.line_record import Line
from equiv_probe.landscape.loss_landscape import landscape
from equiv_probe.landscape.measured_gradients import Gradients
from equiv_probe.landscape.orbit_loss import OrbitLoss
from equiv_probe.landscape.parameter_line import along_line
from equiv_probe.orbit.infinitesimal import infinitesimal

__all__ = [
    "Curvature",
    "Gradients",
    "Landscape",
    "Line",
    "OrbitLoss",
    "along_line",
    "curvature",
    "gradients",
    "infinitesimal",
    "landscape",
]
