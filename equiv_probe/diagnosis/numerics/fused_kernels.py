"""Fused kernels that give something else than the operations they stand for."""

from __future__ import annotations

import copy
import sys
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from equiv_probe.diagnosis.finding import Finding
    from equiv_probe.diagnosis.subject import Subject

NAME = "fused kernels"


@experiment(NAME, "numerics", "Does the error go without fused kernels, as of attention or cuEquivariance?", cost=FEW)
def fused_kernels(subject: Subject) -> Iterator[Finding]:
    """Attention, encoder layers, oneDNN and cuEquivariance's polynomials as plain operations, one after the other."""
    predict, where = subject.predict, ""
    if subject.module is not None and subject.calling is not None and _fused_polynomials(subject.module):
        plain = copy.deepcopy(subject.module)
        where = f", with {_made_plain(plain)} of cuEquivariance's polynomials among them"
        predict = subject.calling(plain)
    after = subject.again(predict=_plainly(predict))
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


def _plainly(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(inputs: Any) -> Any:
        with ExitStack() as stack, warnings.catch_warnings(action="ignore"):  # of TF32, when flags are set
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(_no_fast_path())
            return predict(inputs)

    return run


@contextmanager
def _no_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
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
