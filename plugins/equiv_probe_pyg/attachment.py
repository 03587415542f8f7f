"""The probe on a PyG model, with the labels that its graphs carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from equiv_probe.deprecation import renamed
from equiv_probe.probe.probe import Probe
from equiv_probe.representations.spelling import representation
from equiv_probe.schema.schema import Schema
from equiv_probe_pyg.adapter import GraphAdapter
from equiv_probe_pyg.labels import Labels

if TYPE_CHECKING:
    from torch import nn

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.probe.schedule import Cadence
    from equiv_probe.representations.representation import Representation
    from equiv_probe.rotations.resolve import PlanLike


@renamed(budget="cost")
def attach(
    model: nn.Module,
    outputs: Mapping[str, Representation | str] | Iterable[str] | str | None = None,
    targets: Mapping[str, str] | str | None = None,
    *,
    schema: Schema | None = None,
    every: Cadence = "auto",
    cost: float | None = 0.01,
    plan: PlanLike | None = None,
    loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
    **options: Any,
) -> Probe:
    """Put a probe on a model that is called with graphs, or with their tensors, and read its labels from the graphs.

    Args:
        model: called with ``Data``, ``Batch`` or ``HeteroData`` anywhere among its arguments, or with tensors named
            ``pos``, ``edge_index``, ``batch`` and so on.
        outputs: what the model puts out: ``{"energy": ep.scalar, "forces": ep.vector}``, or names whose representation
            is inferred; names are given to a tuple in order. None takes what comes, by its keys or places.
        targets: the attribute that is the label, by output, ``{"energy": "y", "forces": "force"}``, or that of the
            single output. None takes attributes of the outputs' own names, and ``y`` for a single output of its size,
            and prints which; an empty mapping takes none, and measures the squared-error ``L_equiv`` alone.
        schema: representations of inputs and outputs, as far as they are to be declared.
        every: training calls between two measurements; ``"auto"`` for as many as the cost allows.
        cost: largest share of the run's time that measuring takes; None is no limit.
        plan: of evaluation calls; None is four tetrahedral replicates.
        loss: against the targets; a name, or one by output.
        options: of :class:`equiv_probe.Probe`, such as ``center="origin"`` or ``full=1``.

    Returns:
        The probe, attached; ``remove()`` takes it off, as does leaving ``with attach(...) as probe:``.

    Raises:
        EquivProbeError: at the first measurement, if something is ambiguous or does not fit.

    >>> import torch
    >>> import equiv_probe as ep
    >>> from torch_geometric.data import Batch, Data
    >>> class Forces(torch.nn.Module):
    ...     def forward(self, data):
    ...         return {"forces": data.pos * torch.tensor([1.0, 2.0, 3.0])}
    >>> model = Forces()
    >>> batch = Batch.from_data_list([Data(pos=torch.randn(n, 3), force=torch.randn(n, 3)) for n in (4, 5)])
    >>> with attach(model, {"forces": ep.vector}, {"forces": "force"}, every=1) as probe:
    ...     forces = model(batch)
    >>> probe.compute()["equiv/train/forces/L_total"] > 0
    True
    """
    known: dict[str, Representation | None] | None = None
    if isinstance(outputs, Mapping):
        known = {name: representation(rep) for name, rep in outputs.items()}
    elif outputs is not None:
        known = dict.fromkeys([outputs] if isinstance(outputs, str) else outputs)
    if known and all(rep is not None for rep in known.values()):
        given = schema or Schema({}, {})
        merged = {**{name: rep for name, rep in known.items() if rep is not None}, **given.outputs}
        schema = replace(given, outputs=merged)
    adapter = GraphAdapter(model, known)
    labels = Labels(targets, loss)
    return Probe(model, schema, plan, every, cost=cost, adapter=adapter, targets=labels, **options).attach()
