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

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.lazy_names import lazily

if TYPE_CHECKING:
    from equiv_probe import analysis, scaling, testing
    from equiv_probe.analysis import (  # isort: skip
        Curvature as Curvature,
        Gradients as Gradients,
        Line as Line,
        OrbitLoss as OrbitLoss,
        along_line as along_line,
        curvature as curvature,
        gradients as gradients,
        infinitesimal as infinitesimal,
    )
    from equiv_probe.augmentation.augment import Augmentation, augment
    from equiv_probe.augmentation.check import check_augmentation
    from equiv_probe.augmentation.findings import AugmentationCheck
    from equiv_probe.augmentation.random_rotation import RandomRotation
    from equiv_probe.diagnosis.diagnose import diagnose
    from equiv_probe.diagnosis.diagnosis import Diagnosis
    from equiv_probe.diagnosis.layers.record import Trace
    from equiv_probe.diagnosis.layers.trace import trace
    from equiv_probe.errors import EquivProbeError
    from equiv_probe.estimation.decomposition import Decomposition, decompose
    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.estimation.spectrum import Spectrum, spectrum
    from equiv_probe.generative.sampler_audit import audit_sampler
    from equiv_probe.generative.sampler_report import SamplerAudit
    from equiv_probe.landscape.loss_landscape import landscape as landscape
    from equiv_probe.landscape.penalty import EquivariancePenalty, equivariance_penalty
    from equiv_probe.live.twirled import Twirled
    from equiv_probe.orbit.twirl import twirl
    from equiv_probe.probe.probe import Probe
    from equiv_probe.probe.replay import Replay
    from equiv_probe.report.loading import load
    from equiv_probe.representations.frames import frame, orientation, quaternion
    from equiv_probe.representations.grids import grid
    from equiv_probe.representations.representation import (
        axial,
        concat,
        fixed,
        irreps,
        point,
        pseudoscalar,
        scalar,
        tensor,
        vector,
        voigt,
    )
    from equiv_probe.results.comparison import Comparison, compare
    from equiv_probe.results.report import Report
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Schema
    from equiv_probe.voxels.grid_audit import audit_grid
    from equiv_probe.voxels.grid_report import GridAudit

__all__ = [
    "Augmentation",
    "AugmentationCheck",
    "Comparison",
    "Decomposition",
    "Diagnosis",
    "EquivProbeError",
    "EquivariancePenalty",
    "GridAudit",
    "Orbit",
    "Probe",
    "RandomRotation",
    "Replay",
    "Report",
    "RotationPlan",
    "SamplerAudit",
    "Schema",
    "Spectrum",
    "Trace",
    "Twirled",
    "analysis",
    "audit_grid",
    "audit_sampler",
    "augment",
    "axial",
    "check_augmentation",
    "compare",
    "concat",
    "decompose",
    "diagnose",
    "equivariance_penalty",
    "fixed",
    "frame",
    "grid",
    "irreps",
    "load",
    "orientation",
    "point",
    "pseudoscalar",
    "quaternion",
    "scalar",
    "scaling",
    "spectrum",
    "tensor",
    "testing",
    "trace",
    "twirl",
    "vector",
    "voigt",
]

_PACKAGES = (
    *(
        "augmentation",
        "diagnosis",
        "estimation",
        "generative",
        "landscape",
        "live",
        "orbit",
        "probe",
        "report",
        "representations",
    ),
    *("results", "rotations", "schema", "voxels"),
)

if not TYPE_CHECKING:
    _find, __dir__ = lazily(
        __name__,
        {
            **dict.fromkeys(_PACKAGES, ()),
            "analysis": (),
            "augmentation.augment": ("Augmentation", "augment"),
            "augmentation.check": ("check_augmentation",),
            "augmentation.findings": ("AugmentationCheck",),
            "augmentation.random_rotation": ("RandomRotation",),
            "diagnosis.diagnose": ("diagnose",),
            "diagnosis.diagnosis": ("Diagnosis",),
            "diagnosis.layers.record": ("Trace",),
            "diagnosis.layers.trace": ("trace",),
            "errors": ("EquivProbeError",),
            "estimation.decomposition": ("Decomposition", "decompose"),
            "estimation.orbit": ("Orbit",),
            "estimation.spectrum": ("Spectrum", "spectrum"),
            "generative.sampler_audit": ("audit_sampler",),
            "generative.sampler_report": ("SamplerAudit",),
            "landscape.penalty": ("EquivariancePenalty", "equivariance_penalty"),
            "live.twirled": ("Twirled",),
            "orbit.twirl": ("twirl",),
            "probe.probe": ("Probe",),
            "probe.replay": ("Replay",),
            "report.loading": ("load",),
            "representations.frames": ("frame", "orientation", "quaternion"),
            "representations.grids": ("grid",),
            "representations.representation": (
                *("axial", "concat", "fixed", "irreps", "point", "pseudoscalar", "scalar", "tensor", "vector", "voigt"),
            ),
            "results.comparison": ("Comparison", "compare"),
            "results.report": ("Report",),
            "rotations.plan": ("RotationPlan",),
            "scaling": (),
            "schema.schema": ("Schema",),
            "testing": (),
            "voxels.grid_audit": ("audit_grid",),
            "voxels.grid_report": ("GridAudit",),
        },
    )
    _MOVED = {"Curvature", "Gradients", "Line", "OrbitLoss", "along_line", "curvature", "gradients", "infinitesimal"}

    def __getattr__(name: str) -> Any:
        if name not in _MOVED:
            return _find(name)
        from equiv_probe.deprecation import warn

        warn(f"ep.{name} is now called ep.analysis.{name}")
        return getattr(_find("analysis"), name)
