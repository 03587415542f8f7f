"""``trace``: where in a network symmetry breaks."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.diagnosis.comparison import root, variance
from equiv_probe.diagnosis.evaluation import left_out
from equiv_probe.diagnosis.layers.calls import WatchedCalls
from equiv_probe.diagnosis.layers.layer import Activation, Layer, TracedOutput
from equiv_probe.diagnosis.layers.patching import Patched, Patching, differentiated
from equiv_probe.diagnosis.layers.record import Trace
from equiv_probe.diagnosis.layers.traced_model import TracedModel
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.live.batch_call import batch_call
from equiv_probe.live.isolation import isolated
from equiv_probe.live.wrappers import network
from equiv_probe.orbit.rotated_model import RotatedModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.diagnosis.layers.sites import CallRecord, Site
    from equiv_probe.schema.schema import Schema

BUDGET = 2000
"""Evaluations for activation patching."""


def trace(
    model: nn.Module,
    batch: Any,
    schema: Schema | None = None,
    *,
    output: str | None = None,
    center: str | Tensor = "centroid",
    budget: int = BUDGET,
    seed: int = 0,
    progress: bool = True,
    name: str | None = None,
) -> Trace:
    """Find out where in a network symmetry breaks: the equivariance error of every submodule's output.

    Each activation is measured at 24 rotations, under the representation that its module declares (e3nn's
    ``irreps_out``) or the simplest that explains it. What a submodule adds to the error of an output is found by
    activation patching: its inputs, and its outputs, are replaced by their group averages.

    Args:
        model: a module; its weights, its state, its hooks, and the random state, stay as they are.
        batch: a tensor, tuple or dict, or a batch of a framework that a plugin knows.
        schema: representations; None infers them.
        output: whose error is explained; None takes the one with the largest error beside its size.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        budget: evaluations for activation patching; 0 leaves it out.
        seed: of the rotations, and of what the model draws.
        progress: show how far it is.
        name: of the model, for the report.

    Returns:
        The tree of calls. What could not be traced is in it, with the reason.

    Raises:
        EquivProbeError: no module, one that cannot be evaluated, or nothing rotates.

    >>> import torch, equiv_probe as ep
    >>> class Denoiser(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mix = torch.nn.Linear(3, 3, bias=False)
    ...     def forward(self, pos):
    ...         away = pos - pos.mean(0)
    ...         return {"forces": self.mix(away) * away.norm(dim=-1, keepdim=True)}
    >>> positions = {"pos": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}
    >>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
    >>> [layer.path for layer in ep.trace(Denoiser(), positions, schema).culprits]
    ['mix']
    """
    if not isinstance(model, nn.Module):
        raise EquivProbeError(
            f"a {type(model).__name__}", "an nn.Module, whose submodules can be traced", "ep.diagnose"
        )
    began = time.perf_counter()
    inner = network(model)
    with isolated(model, gradients=True, contents=True):
        call = batch_call(model, batch, schema)
        rotated = RotatedModel(call.predict, call.inputs, call.schema, center, precision=call.precision)
        return trace_of(
            rotated,
            {"": inner},
            precision=call.precision or torch.float64,
            output=output,
            budget=budget,
            seed=seed,
            progress=progress,
            model=name or type(inner).__name__,
            source=f"one batch, a {type(batch).__name__}",
            began=began,
        )


def trace_of(
    rotated: RotatedModel,
    roots: Mapping[str, nn.Module],
    *,
    precision: torch.dtype,
    model: str,
    source: str,
    output: str | None = None,
    budget: int = BUDGET,
    seed: int = 0,
    units: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    progress: bool = True,
    began: float | None = None,
) -> Trace:
    """Trace the modules that a function calls.

    Args:
        rotated: the function, its input and its schema.
        roots: modules by path.
        precision: that they work in.
        model: their name.
        source: what it is traced on.
        output: whose error is explained.
        budget: evaluations for activation patching.
        seed: of the rotations.
        units: of outputs.
        notes: what a reader must know.
        progress: show how far it is.
        began: when, by :func:`time.perf_counter`.
    """
    began = time.perf_counter() if began is None else began
    if output is not None and output not in rotated.schema.outputs:
        raise EquivProbeError(f"output={output!r}", f"one of {sorted(rotated.schema.outputs)}", "output=None")
    watched = WatchedCalls(roots)
    with watched.hooked():
        traced = TracedModel(rotated, watched, precision, seed)
        if not traced.calls:
            raise EquivProbeError("no call of a submodule in an evaluation", "a model that calls its modules")
        traced.measure(progress=progress)
        outputs = _outputs(traced, units or {})
        chosen, remarks = _chosen(traced, outputs, output)
        patched: dict[int, Patched] = {}
        if chosen is not None and budget > 0:
            patched = Patching(traced, chosen, budget).run(progress=progress)
    return Trace(
        model,
        source,
        chosen or "",
        outputs,
        [_layer(traced, call, patched.get(place)) for place, call in enumerate(traced.calls)],
        _not_called(traced),
        {
            "rotations": f"{len(traced.rotations)} of {traced.plan}",
            "evaluations": rotated.evaluations,
            "precision": str(precision).removeprefix("torch."),
            "seed": seed,
            "seconds": round(time.perf_counter() - began, 1),
        },
        [*remarks, *_remarks(traced), *notes],
    )


def _outputs(traced: TracedModel, units: Mapping[str, str]) -> list[TracedOutput]:
    found = []
    for name, values in traced.values.items():
        error, size = (math.sqrt(variance(values)), root(values)) if values.numel() else (0.0, 0.0)
        rounding = traced.rounding_of_output(name, size)
        found.append(
            TracedOutput(name, units.get(name, ""), error, size, rounding, error > ROUND_OFF_FACTOR * rounding)
        )
    return sorted(found, key=lambda one: -one.relative if math.isfinite(one.relative) else 0.0)


def _chosen(traced: TracedModel, outputs: Sequence[TracedOutput], wanted: str | None) -> tuple[str | None, list[str]]:
    """The output whose error is explained, and what a reader must know of that choice."""
    broken = [one.name for one in outputs if one.broken]
    if not broken:
        return None, []
    try:
        indirect = differentiated(traced)
    except (Exception, SystemExit) as error:  # models raise anything
        return wanted or broken[0], [f"it is not known which outputs are gradients ({type(error).__name__}: {error})"]
    direct = [name for name in broken if name not in indirect]
    if wanted is None and direct:
        given = f", of which {', '.join(sorted(indirect))} are gradients" if indirect else ""
        return direct[0], [f"explained is the error of {direct[0]!r}{given}"] if indirect else []
    if wanted in direct:
        return wanted, []
    if wanted is not None and wanted not in broken:
        return None, [f"{wanted!r} is not broken"]
    return None, [
        f"what each call adds is not known: {', '.join(sorted(indirect))} are gradients inside the model, which "
        "activation patching cannot follow, and what they are gradients of is not among the broken outputs"
    ]


def _layer(traced: TracedModel, call: CallRecord, patched: Patched | None) -> Layer:
    known = patched or Patched()
    notes = [known.why] if known.why else []
    if not call.finished:
        notes.append("the call did not come to its end")
    return Layer(
        call.key.path,
        call.key.nth,
        call.kind,
        call.depth,
        -1 if call.parent is None else call.parent,
        [_activation(traced, name, site) for name, site in call.outputs.items()],
        any(map(traced.is_broken, call.inputs.values())),
        known.removed,
        known.adds,
        notes,
    )


def _activation(traced: TracedModel, name: str, site: Site) -> Activation:
    shape = [int(n) for n in site.shape]
    if site.dtype.is_complex:
        return Activation(name, shape, "", "unknown", note="complex numbers are not measured")
    if not site.is_floating:
        changes = ", in another order at each orientation" if site.reordered else ""
        changes = f", which change at {site.changes} rotations" if site.changes else changes
        kind = str(site.dtype).removeprefix("torch.")
        return Activation(name, shape, f"{kind}{changes}", "discrete", broken=site.changes > 0, note=site.lost)
    if site.lost or site.is_empty:
        return Activation(name, shape, "", "unknown", note=site.lost or "it is empty")
    return Activation(
        name,
        shape,
        str(site.carried),
        site.how,
        site.error,
        site.size,
        site.floor,
        traced.is_broken(site),
        site.fit if site.fit_is_enough else math.nan,
        "" if site.fit_is_enough else "too few rows to fit a representation",
    )


def _not_called(traced: TracedModel) -> list[str]:
    """Modules that were not called, without those inside of others that were not."""
    called = {call.key.path for call in traced.calls}
    idle = [path for path in traced.watched.modules if path not in called and path]
    parents = {path for path in idle if not any(one == path or one.startswith(f"{path}.") for one in called)}
    return [
        path
        for path in idle
        if path in parents and not any(path.startswith(f"{one}.") for one in parents if one != path)
    ]


def _remarks(traced: TracedModel) -> list[str]:
    problems = [f"{path or 'the model'} {why}" for path, why in traced.watched.problems.items()]
    remarks = [*problems, *left_out(traced.refused)]
    lists = [site for site in traced.sites if site.changes or site.reordered]
    if lists and any(map(traced.is_broken, traced.sites)):
        remarks.append(
            f"whole numbers depend on the orientation ({lists[0].place[0].path} {lists[0].place[2]}), as "
            "neighbour lists do: what is stored by neighbour may only be in another order where it is called broken"
        )
    return remarks
