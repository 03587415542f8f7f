"""Fused kernels that give something else than the operations they stand for."""

from __future__ import annotations

import copy
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from equiv_probe.diagnosis.evaluation import under
from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "fused kernels"


@experiment(NAME, "numerics", "Does the error go without fused kernels, as of attention or cuEquivariance?", cost=FEW)
def fused_kernels(subject: Subject) -> Findings:
    """Attention, encoder layers, oneDNN and cuEquivariance's polynomials as plain operations, one after the other."""
    predict, where = subject.predict, ""
    if subject.module is not None and _fused_polynomials(subject.module):
        plain = copy.deepcopy(subject.module)
        where = f", with {_made_plain(plain)} of cuEquivariance's polynomials among them"
        predict = subject.by(plain)
    after = subject.again(predict=under(_plain_operations, predict))
    if all(torch.equal(after[name], subject.few(name)) for name in subject.broken):
        raise NotApplicable(f"plain operations give the same numbers{_of_cuequivariance(subject)}")
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = (
            f"{name!r} is off by {number(best.after, 2)} and not {number(best.before, 2)} from plain operations "
            f"instead of fused kernels{where}"
        )
        advice = (
            "Report it with this input; until then leave them out: torch.nn.attention.sdpa_kernel(SDPBackend.MATH), "
            "torch.backends.mha.set_fastpath_enabled(False), torch.backends.mkldnn.flags(enabled=False), "
            "cuequivariance_torch's method='naive'."
        )
        yield finding(NAME, name, best, sentence, advice)


@contextmanager
def _plain_operations() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    flags = torch.backends.mkldnn.flags
    try:  # warnings are of TF32, when flags are set
        with warnings.catch_warnings(action="ignore"), sdpa_kernel(SDPBackend.MATH), flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _polynomials(module: nn.Module) -> list[nn.Module]:
    """The tensor products of cuEquivariance, where it was imported."""
    package = sys.modules.get("cuequivariance_torch")
    kind = getattr(package, "SegmentedPolynomial", None)
    return [part for part in module.modules() if kind is not None and isinstance(part, kind)]


def _fused_polynomials(module: nn.Module) -> list[nn.Module]:
    return [part for part in _polynomials(module) if getattr(part, "method", "naive") != "naive"]


def _made_plain(module: nn.Module) -> int:
    """Evaluate each fused polynomial by cuEquivariance's own plain method; how many there were."""
    fused = _fused_polynomials(module)
    for part in fused:
        made, (polynomial, _, *more), *_ = cast("tuple[Any, ...]", part.__reduce__())
        part.m, part.method = made(polynomial, "naive", *more).m, cast("Any", "naive")
    return len(fused)


def _of_cuequivariance(subject: Subject) -> str:
    if subject.module is not None and _polynomials(subject.module):
        return "; cuEquivariance runs without fused kernels here, which take a GPU and cuequivariance-ops-torch"
    return ""
