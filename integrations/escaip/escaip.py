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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ase.io
import torch
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.models.base import HydraModelV2
from fairchem.core.models.escaip.EScAIP import EScAIPBackbone, EScAIPDirectForceHead
from fairchem.core.models.escaip.modules.input_block import InputLayer
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

BOX = 60.0
"""Edge of the cell in Å, which fairchem wants although nothing is periodic."""


class Size(NamedTuple):
    """Width, layers, heads of attention, and the frequencies that fill the width of a head."""

    width: int
    layers: int
    heads: int
    frequencies: tuple[int, ...]


SizeName = Literal["small", "medium", "large", "paper"]
SIZES: dict[SizeName, Size] = {
    "small": Size(32, 1, 2, (6, 4, 3, 3)),
    "medium": Size(64, 2, 4, (6, 4, 3, 3)),
    "large": Size(96, 2, 6, (6, 4, 3, 3)),
    "paper": Size(192, 6, 6, (12, 8, 6, 6)),
}


class AbsoluteInput(InputLayer):  # type: ignore[misc]
    """EScAIP's first layer, with the edge's direction in the frame of the data added to its invariant features."""

    def __init__(self, *configs: Any) -> None:
        super().__init__(*configs)
        self.direction = nn.Linear(3, self.edge_attr_linear[0].in_features, bias=False)

    def get_edge_features(self, inputs: Any) -> Tensor:
        """Features of the edges, ``(N, K, C)``."""
        found: Tensor = super().get_edge_features(inputs) + self.direction(inputs.edge_direction)
        return found


class FreeHead(EScAIPDirectForceHead):  # type: ignore[misc]
    """Three numbers from the features of an atom, which nothing ties to a direction in space."""

    def compiled_forward(self, edge_features: Tensor, node_features: Tensor, data: Any) -> Tensor:
        """Forces, ``(N, 3)``."""
        del edge_features, data
        found: Tensor = self.force_direction_layer(self.node_norm(node_features))
        return found


def escaip(
    size: SizeName = "medium",
    *,
    radius: float = 6.0,
    neighbours: int = 30,
    seed: int = 0,
    absolute: bool = False,
    free: bool = False,
) -> nn.Module:
    """The model with a head for forces that are no gradient, without compilation and padding.

    Args:
        size: a key of `SIZES`.
        radius: of the graph, Å.
        neighbours: as many as lie within the radius: then none is cut off, and the graph is invariant.
        seed: of the weights.
        absolute: whether the first layer sees the edges' directions, which breaks the invariance of the backbone.
        free: whether forces are read off the atoms' features, and not sums over directions of edges.
    """
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
        knn_pad_size=neighbours + 2,
        use_pbc=False,
    )
    if absolute:
        configs = (backbone.global_cfg, backbone.molecular_graph_cfg, backbone.gnn_cfg, backbone.reg_cfg)
        backbone.input_block.input_layer = AbsoluteInput(*configs)
    head = FreeHead if free else EScAIPDirectForceHead
    return HydraModelV2(backbone, {"forces": head(backbone)})


NEIGHBOURS = {"ethanol": 8, "3bpa": 26, "gfn2": 23}
"""The most that lie within 6 Å of an atom, by set."""
HELD_OUT = 100


def frames(name: str) -> tuple[list[Any], list[Any]]:
    """The structures of a set, with forces: to train on, and held out; of ``gfn2`` these are of other molecules.

    Raises:
        FileNotFoundError: the file is not there.
    """
    here, shared = Path(__file__).parents[1] / "force_field/data", Path(os.environ.get("EQUIV_PROBE_DATA", "."))
    files = {
        "ethanol": [shared / "ethanol_rmd17/train.xyz"],
        "3bpa": [shared / "3bpa/train_mixedT.xyz"],
        "gfn2": [here / "train.extxyz", here / "molecules.extxyz"],
    }[name]
    for path in files:
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: set EQUIV_PROBE_DATA, or run integrations/force_field/make_data.py for gfn2"
            )
    structures, *others = [list(ase.io.read(path, ":")) for path in files]
    order = torch.randperm(len(structures), generator=torch.Generator().manual_seed(6)).tolist()
    shuffled = [structures[k] for k in order]
    return (shuffled, others[0][::2]) if others else (shuffled[HELD_OUT:], shuffled[:HELD_OUT])


def labels(chosen: Sequence[Any]) -> Tensor:
    """The forces of structures, ``(N, 3)`` in eV/Å."""
    return torch.cat([torch.tensor(one.get_forces()) for one in chosen]).double()


def batch(chosen: Sequence[Any], rotations: Tensor | None = None) -> Any:
    """Structures as fairchem's batch, each rotated by its own of ``rotations``, ``(B, 3, 3)``."""
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


def is_closed(model: nn.Module) -> bool:
    """Whether the derivation above holds: the backbone sees distances and angles only."""
    return isinstance(model, HydraModelV2) and not isinstance(model.backbone.input_block.input_layer, AbsoluteInput)


def both_losses(model: nn.Module, data: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`L_mean` and `L_equiv` of the squared force error per component, (eV/Å)², in closed form, differentiable.

    Four evaluations and no rotation.

    Args:
        model: EScAIP.
        data: of `batch`.
        labels: ``(N, 3)`` in eV/Å.
    """
    layer, named = rows(model), dict(model.named_parameters())
    name = {id(weight): name for name, weight in named.items()}
    own = [one for one in (layer.weight, layer.bias) if one is not None]

    def forces(values: list[Tensor]) -> Tensor:
        changed = {name[id(one)]: value.expand_as(one) for one, value in zip(own, values, strict=True)}
        found: Tensor = torch.func.functional_call(model, {**named, **changed}, (data,))["forces"]["forces"]
        return found.double()

    mean = [one.mean(0, keepdim=True) for one in own]
    differences = [[one[c : c + 1] - middle for one, middle in zip(own, mean, strict=True)] for c in range(3)]
    l_equiv = torch.stack([forces(difference).square().mean() for difference in differences]).sum() / 3
    return (forces(mean) - labels).square().mean(), l_equiv


def rows_together(model: nn.Module) -> Tensor:
    """The three rows, ``(3, W)`` in float64, the bias as the last column."""
    layer = rows(model)
    parts = [layer.weight.detach()] + ([] if layer.bias is None else [layer.bias.detach()[:, None]])
    return torch.cat(parts, 1).double()


def variance_of_rows(model: nn.Module) -> float:
    """Mean over the columns of the variance of the three rows, bias included."""
    return float(rows_together(model).var(0, unbiased=False).mean())
