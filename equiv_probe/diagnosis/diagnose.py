"""``diagnose``: why a model breaks symmetry."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.diagnosis.diagnosis import Diagnosis
from equiv_probe.diagnosis.evaluation import left_out
from equiv_probe.diagnosis.experiments import EXPERIMENTS
from equiv_probe.diagnosis.output_error import OutputError
from equiv_probe.diagnosis.search import search
from equiv_probe.diagnosis.subject import Subject
from equiv_probe.live.batch_call import batch_call
from equiv_probe.live.isolation import isolated
from equiv_probe.progress import progress as progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Experiment
    from equiv_probe.schema.schema import Schema


def diagnose(
    model: Callable[..., Any],
    batch: Any,
    schema: Schema | None = None,
    *,
    center: str | Tensor = "centroid",
    everything: bool = False,
    budget: int | None = None,
    seed: int = 0,
    experiments: Sequence[Experiment] = EXPERIMENTS,
    progress: bool = True,
    name: str | None = None,
) -> Diagnosis:
    """Find out why a model breaks symmetry: experiments, the cheapest first, until one explains the error.

    Args:
        model: a module or any callable, called with ``batch``; its state, and the random state, stay as they are.
        batch: a tensor, tuple or dict, or a batch of a framework that a plugin knows; a tuple holds the arguments of a
            module with as many.
        schema: representations; None infers them.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        everything: run all experiments, also when the error is explained.
        budget: evaluations of the model beyond which no experiment is begun.
        seed: of the rotations.
        experiments: to choose from.
        progress: show how far it is.
        name: of the model, for the report.

    Returns:
        The diagnosis; an experiment that could not be run says why.

    Raises:
        EquivProbeError: the model cannot be evaluated at all, or nothing rotates.

    >>> import torch, equiv_probe as ep
    >>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
    >>> positions = {"pos": torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    >>> ep.diagnose(lambda x: {"forces": (x["pos"] - x["pos"].mean(0))[:, [1, 2, 0]]}, positions, schema).verdict
    'order of axes'
    """
    began = time.perf_counter()
    module = model if isinstance(model, nn.Module) else None
    with isolated(module, gradients=True, contents=True) if module is not None else nullcontext(), _compiled():
        subject = subject_of(model, batch, schema, center=center, seed=seed)
        return diagnosis_of(
            subject,
            experiments,
            everything=everything,
            budget=budget,
            model=name or getattr(model, "__name__", None) or type(model).__name__,
            source=_source(batch),
            began=began,
            progress=progress,
        )


def hints(
    model: Callable[..., Any],
    batch: Any,
    schema: Schema | None = None,
    *,
    outputs: Sequence[str] | None = None,
    at_most: int = 2,
    center: str | Tensor = "centroid",
    seed: int = 0,
) -> list[str]:
    """The cheap part of a diagnosis, for a message: what explains the error of some outputs, a sentence each.

    Args:
        model: as for :func:`diagnose`.
        batch: as for :func:`diagnose`.
        schema: as for :func:`diagnose`.
        outputs: that are asked about; None is all that are broken.
        at_most: evaluations that an experiment may take beyond the 28 that all share.
        center: as for :func:`diagnose`.
        seed: of the rotations.

    Returns:
        What was found, the most telling first; empty where the cheap experiments say nothing.

    Raises:
        EquivProbeError: the model cannot be evaluated at all, or nothing rotates.
    """
    cheap = [one for one in EXPERIMENTS if one.cost <= at_most]
    found = diagnose(model, batch, schema, center=center, seed=seed, experiments=cheap, progress=False)
    told = [*found.decisive, *(one for one in found.findings if one.state in {"explains", "partly", "found"})]
    wanted = set(outputs) if outputs is not None else {one.name for one in found.outputs}
    return list(dict.fromkeys(f"{one.experiment}: {one.sentence}" for one in told if one.output in wanted))


def subject_of(
    model: Callable[..., Any], batch: Any, schema: Schema | None, *, center: str | Tensor = "centroid", seed: int = 0
) -> Subject:
    """A model and its batch, ready for experiments; arguments as of :func:`diagnose`."""
    call = batch_call(model, batch, schema)
    module = model if isinstance(model, nn.Module) else None
    return Subject(
        call.predict,
        call.inputs,
        call.schema,
        center=center,
        seed=seed,
        module=module,
        calling=call.calling,
        precision=call.precision,
    )


def diagnosis_of(
    subject: Subject,
    experiments: Sequence[Experiment],
    *,
    model: str,
    source: str,
    everything: bool = False,
    budget: int | None = None,
    protocol: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    began: float | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Run experiments on a subject, and say what came out.

    Args:
        subject: the model.
        experiments: to choose from.
        model: its name.
        source: what it is asked on.
        everything: as for :func:`diagnose`.
        budget: as for :func:`diagnose`.
        protocol: further lines of it.
        notes: what a reader must know.
        began: when, by :func:`time.perf_counter`; None is now.
        progress: as for :func:`diagnose`.
    """
    began = time.perf_counter() if began is None else began
    with progress_bar(len(experiments), "diagnosis", "experiments", shown=progress) as advance:
        findings, attempts = search(subject, experiments, everything=everything, budget=budget, advance=advance)
    return Diagnosis(
        model,
        source,
        outputs_of(subject),
        findings,
        attempts,
        {
            "rotations": len(subject.rotations),
            "evaluations": subject.evaluations,
            "precision": str(subject.precision).removeprefix("torch."),
            "seed": subject.seed,
            **(protocol or {}),
            "seconds": round(time.perf_counter() - began, 1),
        },
        [*_remarks(subject), *notes],
    )


def outputs_of(subject: Subject) -> list[OutputError]:
    """The symmetry errors of a subject's outputs, the broken ones first."""
    ordered = [*subject.broken, *(name for name in subject.outputs if name not in subject.broken)]
    found = []
    for name in ordered:
        verdict = subject.verdict(name)
        kind, sentence = verdict.kind, verdict.sentence
        if name in subject.broken and kind == "round-off":
            kind, sentence = "discontinuous", f"{sentence}; but the precision does not explain that floor"
        if name not in subject.broken:
            kind, sentence = "round-off", f"at round-off: {subject.amount(name, subject.error(name))}"
        numbers = (subject.error(name), subject.floor(name), subject.noise(name), subject.size(name))
        found.append(OutputError(name, subject.unit(name), *numbers, kind, sentence))
    return found


def _remarks(subject: Subject) -> list[str]:
    unfinished = subject.nonfinite.items()
    return [
        *left_out(subject.refused),
        *(f"{name!r} was not finite at {count} rotations, which were left out" for name, count in unfinished),
    ]


def _compiled() -> AbstractContextManager[Any]:
    """Let compiled modules run compiled, which :func:`isolated` does not: what they do is in question here."""
    known = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("default") if known else nullcontext()


def _source(batch: Any) -> str:
    if isinstance(batch, torch.Tensor):
        return f"one input of shape {tuple(batch.shape)}"
    return f"one batch, a {type(batch).__name__}"
