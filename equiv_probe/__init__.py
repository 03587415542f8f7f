"""How much of a model's loss is there only because the model does not respect rotation: L_total = L_mean + L_equiv.

>>> import torch, equiv_probe as ep
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
>>> positions = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> def model(inputs):  # pushes harder along x than along y and z: not equivariant
...     return {"forces": inputs["pos"] * torch.tensor([2.0, 1.0, 1.0])}
>>> orbit = ep.twirl(model, {"pos": positions}, schema, ep.RotationPlan("tetrahedral", replicates=4))
>>> targets = 1.2 * positions
>>> print(f"{100 * ep.decompose(orbit, targets).share:.0f} % of the loss is broken symmetry")
51 % of the loss is broken symmetry
"""

from equiv_probe.augmentation.augment import Augmentation, augment
from equiv_probe.augmentation.check import check_augmentation
from equiv_probe.augmentation.findings import AugmentationCheck
from equiv_probe.augmentation.random_rotation import RandomRotation
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.decomposition import Decomposition, decompose
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.spectrum import Spectrum, spectrum
from equiv_probe.generative.sampler_audit import audit_sampler
from equiv_probe.generative.sampler_report import SamplerAudit
from equiv_probe.landscape.curvature import curvature
from equiv_probe.landscape.curvature_record import Curvature
from equiv_probe.landscape.gradient_record import Gradients
from equiv_probe.landscape.gradients import gradients
from equiv_probe.landscape.line_record import Line
from equiv_probe.landscape.orbit_loss import OrbitLoss
from equiv_probe.landscape.parameter_line import along_line
from equiv_probe.landscape.penalty import EquivariancePenalty, equivariance_penalty
from equiv_probe.live.twirled import Twirled
from equiv_probe.orbit.infinitesimal import infinitesimal
from equiv_probe.orbit.twirl import twirl
from equiv_probe.probe.probe import Probe
from equiv_probe.probe.replay import Replay
from equiv_probe.representations.frames import frame, orientation, quaternion
from equiv_probe.representations.grids import grid
from equiv_probe.representations.representation import (
    axial,
    fixed,
    irreps,
    point,
    pseudoscalar,
    scalar,
    tensor,
    vector,
    voigt,
)
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.schema import Schema
from equiv_probe.voxels.grid_audit import audit_grid
from equiv_probe.voxels.grid_report import GridAudit

__all__ = [
    "Augmentation",
    "AugmentationCheck",
    "Curvature",
    "Decomposition",
    "EquivProbeError",
    "EquivariancePenalty",
    "Gradients",
    "GridAudit",
    "Line",
    "Orbit",
    "OrbitLoss",
    "Probe",
    "RandomRotation",
    "Replay",
    "RotationPlan",
    "SamplerAudit",
    "Schema",
    "Spectrum",
    "Twirled",
    "along_line",
    "audit_grid",
    "audit_sampler",
    "augment",
    "axial",
    "check_augmentation",
    "curvature",
    "decompose",
    "equivariance_penalty",
    "fixed",
    "frame",
    "gradients",
    "grid",
    "infinitesimal",
    "irreps",
    "orientation",
    "point",
    "pseudoscalar",
    "quaternion",
    "scalar",
    "spectrum",
    "tensor",
    "twirl",
    "vector",
    "voigt",
]
