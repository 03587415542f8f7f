"""Which inputs, outputs and targets of a model carry which representation, and how that was found out.

Evidence, strongest first: what the user declared, the names of the tensors, their shapes. What is only guessed carries
its reason and the line that would declare it; what is ambiguous is an error that shows that line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger
from equiv_probe.representations import frames
from equiv_probe.representations import representation as reps
from equiv_probe.representations.grids import Grid
from equiv_probe.rotations.drawing import rank
from equiv_probe.schema.grid_inference import could_be_field, guess_grid, unclear

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation

Named = dict[str, Any]
"""Tensors by name, in the model's own order."""

# The field's usual names, without case and leading underscores. Shape decides between a tensor and its Voigt form.
_NAMES: dict[str, Representation] = {
    **dict.fromkeys(("pos", "positions", "coord", "coords", "coordinates", "xyz", "r", "x_t", "x0", "x1"), reps.point),
    **dict.fromkeys(("ligand_pos", "protein_pos", "ca_pos", "cart_coords", "trans", "translations"), reps.point),
    **dict.fromkeys(("trans_t", "trans_0", "trans_1", "pred_trans", "x0_pred", "x1_pred", "pred_x0"), reps.point),
    **dict.fromkeys(("pred_x1", "denoised", "atom37", "atom14", "atom_positions", "atom37_pos"), reps.point),
    **dict.fromkeys(("rots", "rotmats", "rot_mats", "rotmats_t", "rotmats_0", "rotmats_1"), frames.orientation),
    **dict.fromkeys(("pred_rotmats", "orientation", "orientations"), frames.orientation),
    **dict.fromkeys(("rigids", "rigids_t", "rigids_0", "rigids_1", "rigid", "frames"), frames.frame()),
    **dict.fromkeys(("v_pred", "pred_v", "noise", "noise_pred", "pred_noise", "eps", "eps_pred"), reps.vector),
    **dict.fromkeys(("force", "forces", "velocity", "velocities", "momenta", "momentum", "v_t"), reps.vector),
    **dict.fromkeys(("dipole", "dipoles", "dipole_moment", "displacement", "displacements"), reps.vector),
    **dict.fromkeys(("cell", "cells", "lattice", "box", "offsets", "rij", "edge_vec", "edge_vectors"), reps.vector),
    **dict.fromkeys(("shifts", "edge_shift", "edge_shifts", "shift_vectors", "pbc_offshift", "normal"), reps.vector),
    **dict.fromkeys(("torque", "angular_momentum", "magnetic_moments", "spins"), reps.axial),
    **dict.fromkeys(
        ("energy", "energies", "free_energy", "energy_u0", "charge", "charges", "partial_charges"), reps.scalar
    ),
    **dict.fromkeys(("magmom", "magmoms", "homo", "lumo", "gap", "node_energy", "atomic_energies"), reps.scalar),
    **dict.fromkeys(("polarizability", "quadrupole", "virial", "virials"), reps.tensor(2)),
    **dict.fromkeys(("stress", "stresses"), reps.tensor(2)),
    **dict.fromkeys(
        ("z", "atomic_numbers", "numbers", "species", "batch", "ptr", "mask", "edge_index", "t"), reps.fixed
    ),
    **dict.fromkeys(("atom_mask", "atom37_mask", "atom14_mask", "res_mask", "residue_mask"), reps.fixed),
    # Counts of images, whole numbers even where they are stored as floats.
    **dict.fromkeys(("unit_shifts", "cell_offset", "cell_offsets", "cell_shift", "edge_cell_shift"), reps.fixed),
    **dict.fromkeys(("pbc_offset", "edge_image", "edge_images"), reps.fixed),
    **dict.fromkeys(("time", "times", "sigma", "natoms", "n_atoms", "pbc", "node_mask", "edge_mask"), reps.fixed),
}


_CELLS = {"cell", "cells", "lattice", "box"}
"""Three vectors as rows; in another shape they could be lengths."""


@dataclass(frozen=True)
class Assumption:
    """One thing that was inferred: which tensor, as what, and why."""

    role: str
    name: str
    representation: Representation
    reason: str

    def __str__(self) -> str:
        return f"{self.role}[{self.name!r}] is {self.representation}: {self.reason}"


@dataclass(frozen=True)
class Schema:
    """Names to representations.

    Args:
        inputs: of every input that rotates; inputs that are not named are passed on as they are.
        outputs: of every output to be measured; outputs that are not named are ignored.
        targets: of targets that rotate otherwise than the output of the same name.
        batch: the input that holds, per node, the index of its structure (PyG's ``batch``), for the centroids.
        mask: the input ``(..., N)`` that is true where a dense batch holds an atom, for the centroids.
        assumptions: what was inferred, for print; made by :meth:`infer`.

    >>> print(Schema(inputs={"pos": reps.point}, outputs={"energy": reps.scalar, "forces": reps.vector}))
    Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})
    """

    inputs: Mapping[str, Representation]
    outputs: Mapping[str, Representation]
    targets: Mapping[str, Representation] = field(default_factory=dict)
    batch: str | None = None
    mask: str | None = None
    assumptions: tuple[Assumption, ...] = ()

    @classmethod
    def infer(cls, inputs: Any, outputs: Any, declared: Schema | None = None) -> Schema:
        """Infer a schema from one evaluation.

        Args:
            inputs: of the model: tensor, tuple or dict.
            outputs: of the model for them.
            declared: a schema that already says part of it; what it says stands.

        Raises:
            EquivProbeError: nothing rotates, or a tensor could carry several representations.
        """
        known = declared or cls({}, {})
        assumptions: list[Assumption] = []
        found: dict[str, dict[str, Representation]] = {}
        points: list[Tensor] = []
        boxes: list[tuple[int, ...]] = []
        answers = {name: value for name, value in named(outputs).items() if isinstance(value, torch.Tensor)}
        for role, values, given in (("inputs", inputs, known.inputs), ("outputs", outputs, known.outputs)):
            found[role] = dict(given)
            for name, value in named(values, list(given)).items():
                if name not in given and isinstance(value, torch.Tensor):
                    answer = answers.get(name.rpartition(".")[2])
                    if role == "inputs" and points and answer is not None and answer.shape == value.shape:
                        representation, reason = _guess_as_output(name, value, points, boxes, known.outputs)
                    else:
                        representation, reason = _guess(role, name, value, points, boxes)
                    found[role][name] = representation
                    assumptions.append(Assumption(role, name, representation, reason))
                if role == "inputs" and isinstance(found[role].get(name), reps.Point):
                    points.append(value)
                if role == "inputs" and isinstance(found[role].get(name), Grid):
                    boxes.append(tuple(value.shape[-3:]))
        if all(isinstance(rep, reps.Fixed) for rep in found["inputs"].values()):
            for name, value in named(inputs).items():
                if could_be_field(value) and name not in known.inputs:
                    raise unclear("inputs", name, tuple(value.shape))
            raise EquivProbeError(
                f"inputs {sorted(found['inputs'])}, none of which rotates",
                "at least one input with positions or vectors, or a voxel grid (B, C, D, H, W)",
                'ep.Schema(inputs={"<name>": ep.point}, outputs={...})',
            )
        return cls(found["inputs"], found["outputs"], known.targets, known.batch, known.mask, tuple(assumptions))

    def target(self, name: str) -> Representation:
        """How the target of output ``name`` rotates."""
        return self.targets.get(name, self.outputs[name])

    def announce(self) -> None:
        """Say, once per run and schema, what was assumed, why, and the line that would declare it."""
        if self.assumptions and self not in _ANNOUNCED and rank() == 0:
            _ANNOUNCED.append(self)
            lines = [*(f"  {assumption}" for assumption in self.assumptions), f"  to declare it: {self}"]
            logger.info("\n".join(["equiv_probe assumes", *lines]))

    def __str__(self) -> str:
        def line(group: Mapping[str, Representation]) -> str:
            return "{" + ", ".join(f'"{name}": ep.{rep}' for name, rep in group.items()) + "}"

        parts = [f"inputs={line(self.inputs)}", f"outputs={line(self.outputs)}"]
        parts += [f"targets={line(self.targets)}"] if self.targets else []
        parts += [f'{key}="{value}"' for key, value in (("batch", self.batch), ("mask", self.mask)) if value]
        return f"Schema({', '.join(parts)})"


_ANNOUNCED: list[Schema] = []


def named(values: Any, names: list[str] | None = None) -> Named:
    """View a tensor, tuple or dict as tensors by name; places become ``"0"``, ``"1"``, … or take ``names`` in order."""
    if isinstance(values, Mapping):
        return dict(values)
    items = list(values) if isinstance(values, (tuple, list)) else [values]
    labels = names if names and len(names) == len(items) else [str(i) for i in range(len(items))]
    return dict(zip(labels, items, strict=True))


def unnamed(values: Named, like: Any) -> Any:
    """Undo :func:`named`: put values back into the kind of container that ``like`` is."""
    if isinstance(like, Mapping):
        return values
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*values.values())
    if isinstance(like, (tuple, list)):
        return type(like)(values.values())
    return next(iter(values.values()))


def _plain(name: str) -> str:
    """A name without its container, its case and its leading underscores."""
    return name.rpartition(".")[2].lower().lstrip("_")


def usual(name: str, shape: tuple[int, ...]) -> Representation | None:
    """What the field means by a name, leading underscores aside; None where it is nobody's usual name.

    Args:
        name: of the tensor.
        shape: of the tensor, which tells a tensor of rank two from its Voigt form.
    """
    known = _NAMES.get(_plain(name))
    if isinstance(known, reps.CartesianTensor) and known.rank == 2 and shape[-1:] == (6,):
        return reps.voigt()  # the order is a convention; ASE's is the usual one, and the announcement shows it
    if isinstance(known, frames.Frame) and shape[-1:] == (7,):
        return frames.frame("quaternion")
    return known


def _guess_as_output(
    name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]], known: Mapping[str, Representation]
) -> tuple[Representation, str]:
    """An input that is named and shaped like an output, as in self-conditioning: what it could not be alone, it is."""
    try:
        return _guess("inputs", name, value, points, boxes)
    except EquivProbeError:
        like = name.rpartition(".")[2]
        representation = known.get(like) or _guess("outputs", like, value, points, boxes)[0]
        return representation, f"the output of that name, shape {tuple(value.shape)}"


def _guess(
    role: str, name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]]
) -> tuple[Representation, str]:
    """One tensor's representation and the reason; raises where several would do."""
    shape = tuple(value.shape)
    by_name = usual(name, shape)
    if found := guess_grid(role, name, value, by_name=by_name, points=points, boxes=boxes):
        return found
    if not value.is_floating_point():
        return reps.fixed, f"{value.dtype} values do not rotate"
    if _plain(name) in _CELLS and shape[-2:] != (3, 3) and value.is_floating_point():
        raise EquivProbeError(
            f"{role}[{name!r}] of shape {shape}, which could be the lengths of a box or one cell vector",
            "a declaration",
            f'ep.Schema({role}={{"{name}": ep.fixed}}, ...) or ep.vector',
        )
    if by_name is not None and by_name.fits(shape):
        return by_name, f"its name, and its shape {shape} fits"
    if shape[-1:] not in {(3,), (6,), (9,)}:
        kind = reps.fixed if role == "inputs" else reps.scalar
        return kind, f"its shape {shape} has no axis of Cartesian components"
    if len(shape) >= 2 and shape[-1] == 3 and shape[-2] != 3:
        if role == "inputs" and not points:
            return reps.point, f"the first floating input with a last axis of 3, shape {shape}"
        if role == "outputs":
            return (
                reps.vector,
                f"a last axis of 3, shape {shape}; if it is a place rather than an arrow, it is ep.point",
            )
    likely = {3: "ep.vector, ep.point or ep.scalar", 6: "ep.voigt() or ep.scalar", 9: "ep.irreps(...) or ep.scalar"}
    if could_be_field(value):
        likely = {key: f"ep.grid(channel_axis=False) or {kinds}" for key, kinds in likely.items()}
    options = "ep.tensor(2) or ep.vector or ep.orientation" if shape[-2:] == (3, 3) else likely[shape[-1]]
    raise EquivProbeError(
        f"{role}[{name!r}] of shape {shape}, which could be {options}",
        "a declaration",
        f'ep.Schema({role}={{"{name}": {options.split(" or ")[0].split(",")[0]}}}, ...)',
    )
