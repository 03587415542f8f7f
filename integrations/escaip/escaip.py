"""fairchem's EScAIP in a small size, its batches, and its broken symmetry in closed form.

EScAIP is invariant up to its last layer. With invariant features ``e_ij`` of an edge, its unit direction ``d_ij``, an
invariant scalar ``s_i`` of the atom and the three rows ``w_c`` of one matrix, the force on an atom is

    F_ic = s_i Σ_j (w_c · e_ij) d_ijc .

Write ``w_c = w̄ + δ_c`` with ``Σ_c δ_c = 0`` and ``F[w]`` for the force where all three rows are ``w``. Rotated back, it
is ``F[w̄] + s_i Σ_j gᵀ diag(δ_c · e_ij) g d_ij``. The matrices in the middle have no trace, so their average over
rotations vanishes: the averaged model is ``F[w̄]``, the model with the mean row. Since ``gᵀ A g gᵀ B g`` averages to
``tr(AB)/3``,

    L_equiv = ⅓ Σ_c |F[δ_c]|² ,

quadratic in the differences of the rows, and with three evaluations exact: no rotation is needed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BOX = 60.0
"""Edge of the cell in Å, which fairchem wants although nothing is periodic."""


class Size(NamedTuple):
    """Width, layers, heads of attention, and the frequencies that fill the width of a head."""

    width: int
    layers: int
    heads: int
    frequencies: tuple[int, ...]


SIZES = {"small": Size(32, 1, 2, (6, 4, 3, 3)), "medium": Size(64, 2, 4, (6, 4, 3, 3))}


def escaip(size: str = "medium", *, radius: float = 6.0, neighbours: int = 30, seed: int = 0) -> nn.Module:
    """The model with a head for forces that are no gradient, without compilation and padding.

    ``neighbours`` must be as many as lie within ``radius`` (Å): then none is cut off, and the graph is invariant.
    """
    from fairchem.core.models.base import HydraModelV2
    from fairchem.core.models.escaip.EScAIP import EScAIPBackbone, EScAIPDirectForceHead

    torch.manual_seed(seed)
    width, layers, heads, frequencies = SIZES[size]
    backbone = EScAIPBackbone(
        atten_name="math",
        regress_forces=True,
        direct_forces=True,
        use_compile=False,
        use_padding=False,
        hidden_size=width,
        num_layers=layers,
        atten_num_heads=heads,
        atom_embedding_size=width // 2,
        node_direction_embedding_size=width // 2,
        node_direction_expansion_size=4,
        edge_distance_expansion_size=width // 2,
        edge_distance_embedding_size=width // 2,
        freequency_list=list(frequencies),
        max_num_elements=60,
        max_atoms=100,
        max_batch_size=64,
        max_radius=radius,
        knn_k=neighbours,
        knn_soft=True,
        knn_sigmoid_scale=0.2,
        knn_lse_scale=0.1,
        knn_use_low_mem=True,
        knn_pad_size=neighbours + 10,
        use_pbc=False,
    )
    return HydraModelV2(backbone, {"forces": EScAIPDirectForceHead(backbone)})


def frames(name: str) -> list[Any]:
    """The structures of a set, with forces.

    Raises:
        FileNotFoundError: the file is not there.
    """
    import ase.io

    shared = Path(os.environ.get("EQUIV_PROBE_DATA", "."))
    path = {
        "ethanol": shared / "ethanol_rmd17/train.xyz",
        "3bpa": shared / "3bpa/train_mixedT.xyz",
        "gfn2": Path(__file__).parents[1] / "force_field/data/train.extxyz",
    }[name]
    if not path.exists():
        raise FileNotFoundError(f"{path}: set EQUIV_PROBE_DATA, or run integrations/force_field/make_data.py for gfn2")
    return list(ase.io.read(path, ":"))


def labels(chosen: Sequence[Any]) -> Tensor:
    """The forces of structures, ``(N, 3)`` in eV/Å."""
    return torch.cat([torch.tensor(one.get_forces()) for one in chosen]).double()


def batch(chosen: Sequence[Any], rotations: Tensor | None = None) -> Any:
    """Structures as fairchem's batch, each rotated by its own of ``rotations``, ``(B, 3, 3)``."""
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    graphs = []
    for place, frame in enumerate(chosen):
        atoms = frame.copy()
        atoms.positions -= atoms.positions.mean(0)
        if rotations is not None:
            atoms.positions = atoms.positions @ rotations[place].double().numpy().T
        atoms.cell, atoms.pbc = (BOX, BOX, BOX), False
        graphs.append(AtomicData.from_ase(atoms, task_name="omol"))
    return atomicdata_list_to_batch(graphs)


def forces_of(model: nn.Module, data: Any) -> Tensor:
    """The model's forces, ``(N, 3)`` in eV/Å."""
    found: Tensor = model(data)["forces"]["forces"]
    return found


def rows(model: nn.Module) -> nn.Linear:
    """The layer whose three rows become the three components of the force."""
    head = model.get_submodule("output_heads.forces.force_direction_layer")
    (last,) = [one for one in head.modules() if isinstance(one, nn.Linear) and one.out_features == 3]
    return last


@contextmanager
def all_rows(model: nn.Module, weight: Tensor, bias: Tensor | None) -> Iterator[None]:
    """The model with all three rows equal to one, ``(C,)``, which makes it equivariant."""
    layer = rows(model)
    kept = [None if one is None else one.detach().clone() for one in (layer.weight, layer.bias)]
    try:
        with torch.no_grad():
            layer.weight.copy_(weight.expand_as(layer.weight))
            if layer.bias is not None and bias is not None:
                layer.bias.fill_(float(bias))
        yield
    finally:
        with torch.no_grad():
            for own, before in zip((layer.weight, layer.bias), kept, strict=True):
                if own is not None and before is not None:
                    own.copy_(before)


def decomposed(model: nn.Module, data: Any, labels: Tensor) -> dict[str, float]:
    """Both parts of the squared force error per component, (eV/Å)², in closed form: four evaluations, no rotation."""
    layer = rows(model)
    weight = layer.weight.detach().clone()
    bias = torch.zeros(3) if layer.bias is None else layer.bias.detach().clone()
    mean = (weight.mean(0), bias.mean())
    with torch.no_grad():
        with all_rows(model, *mean):
            averaged = forces_of(model, data).double()
        equiv = torch.zeros((), dtype=torch.float64)
        for row, offset in zip(weight - mean[0], bias - mean[1], strict=True):
            with all_rows(model, row, offset):
                equiv += forces_of(model, data).double().square().mean() / 3
    l_mean = float((averaged - labels).square().mean())
    return {
        "L_mean": l_mean,
        "L_equiv": float(equiv),
        "L_total": l_mean + float(equiv),
        "share": float(equiv) / (l_mean + float(equiv)),
        "variance_of_rows": float(torch.cat([weight, bias[:, None]], 1).double().var(0, unbiased=False).mean()),
    }
