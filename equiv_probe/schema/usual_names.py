"""What the field usually means by a name: places, arrows, cells, tensors, numbers, and what never rotates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from equiv_probe.representations import frames
from equiv_probe.representations import representation as reps

if TYPE_CHECKING:
    from equiv_probe.representations.representation import Representation

# Without case and leading underscores. Shape decides between a tensor and its Voigt form.
_NAMES_OF: tuple[tuple[Representation, str], ...] = (
    (
        reps.point,
        "pos positions coord coords coordinates xyz r x_t x0 x1 ligand_pos protein_pos ca_pos cart_coords "
        "trans translations loc trans_t trans_0 trans_1 pred_trans x0_pred x1_pred pred_x0 pred_x1 "
        "denoised atom37 atom14 atom_positions atom37_pos ref_pos ref_positions conformer conformers conformer_pos",
    ),
    (frames.orientation, "rots rotmats rot_mats rotmats_t rotmats_0 rotmats_1 pred_rotmats orientation orientations"),
    (frames.frame(), "rigids rigids_t rigids_0 rigids_1 rigid frames"),
    (
        reps.vector,
        "v_pred pred_v noise noise_pred pred_noise eps eps_pred force forces velocity velocities vel v "
        "momenta momentum v_t force_of_atoms force_prev forces_prev grad gradient accel acceleration dipole dipoles "
        "dipole_moment displacement displacements cell cells lattice lat box rcell offsets rij "
        "external_field electric_field efield e_field shifts shift_vectors pbc_offshift normal normals "
        "norm",
    ),
    (reps.axial, "torque angular_momentum magnetic_moments spins magnetic_field bfield b_field"),
    (
        reps.scalar,
        "energy energies free_energy energy_u0 total_energy atomic_energy charge charges partial_charges "
        "magmom magmoms homo lumo gap node_energy atomic_energies "
        "logits class_logits probs probabilities",
    ),
    (reps.tensor(2), "polarizability quadrupole virial virials stress stresses atomic_virials atomic_stresses"),
    (
        reps.fixed,
        "z atomic_numbers numbers species batch ptr mask edge_index t atom_mask atom37_mask atom14_mask "
        "res_mask residue_mask time times sigma natoms n_atoms pbc node_mask edge_mask "
        "node_attrs node_attributes atom_types types one_hot head volume weight "
        "lengths cell_lengths lattice_lengths cell_angles lattice_angles "
        "tags residue_index residue_idx res_idx atom_index",
    ),
    # Counts of images, whole numbers even where they are stored as floats.
    (
        reps.fixed,
        "unit_shifts cell_offset cell_offsets cell_shift edge_cell_shift pbc_offset edge_image "
        "edge_images neighbor_image",
    ),
)
_NAMES = {name: rep for rep, names in _NAMES_OF for name in names.split()}

BATCH_INDICES = {"batch", "idx_m", "batch_idx", "batch_index", "graph_index"}
"""Indices of the structure of each node."""
CELLS = {"cell", "cells", "lattice", "lat", "box", "rcell", "cellpar", "lattice_parameters"}
"""Three vectors as rows; in another shape they could be lengths."""
LENGTHS = {"lengths", "cell_lengths", "lattice_lengths", "abc"}
"""Lengths of a cell's vectors, given without them."""

_FRACTIONAL = re.compile(r"(^|_)(frac|fractional|fcoords?|scaled|reduced)(_|$)")
"""Coordinates in units of the cell's vectors: numbers that no rotation changes."""
_ARROWS = re.compile(
    r"^(edge|rel|vec|dir|diff|disp)(_|$)|(_|^)(vecs?|vectors?|directions?|displacements?|disp|normals?|diffs?)$"
    r"|^[dr]_?ij$|^edge_?(vecs?|attrs?|shifts?)$"
)
"""Names of edges, differences and directions: with three components they are arrows, whatever else is given."""
_FEATURES = re.compile(r"^edge_?(attrs?|features?|feats?|weights?)$")
"""Names of edges that hold anything: features, or arrows."""
_PREDICTED = re.compile(
    r"^(y|targets?|labels?|pred_.*|.*_pred|denoised|noise|eps|forces?|dipoles?|dipole_moment|torque|stress(es)?)$"
)
"""Names of labels and outputs, which a batch may hold beside what the network is given."""
_INFERRED = re.compile(r"^(inferred|predicted|pred|output)_")
"""What stands before the name of an output in a batch that holds its label too."""
_WEIGHTS = re.compile(r"_weights?$")
"""Names of the weights of a loss, of every structure or quantity: they never rotate."""
_HIDDEN = re.compile(
    r"(^|_)(feats?|features?|hidden(_states?)?|embeddings?|embs?|latents?|descriptors?|attentions?|loss|losses)(_|$)"
    r"|^(node|atom|edge)_?attr(s|ibutes?)?$"
)
"""Names of what a network gives beside its outputs: features inside of it, and its own loss."""
_MATRICES = {"stress", "stresses", "virial", "virials", *CELLS}
"""Three rows for each structure, which some networks and batches join to ``(3B, 3)``."""
_HARMONICS = re.compile(r"(^|_)(sh|harmonics|spherical_harmonics|y_?lm)$")


def plain(name: str) -> str:
    """A name without its container, its case and its leading underscores."""
    return name.rpartition(".")[2].lower().lstrip("_")


def usual(name: str, shape: tuple[int, ...]) -> Representation | None:
    """What the field means by a name, leading underscores aside; None where it is nobody's usual name.

    The shape distinguishes a tensor of rank two from its Voigt form.
    """
    key = plain(name)
    # With three components z is a latent or the state of a flow, and no atomic numbers.
    is_state = key == "z" and len(shape) >= 3 and shape[-1] == 3
    known = None if is_state else _NAMES.get(key, _NAMES.get(_INFERRED.sub("", key)))
    if known is None and (is_fractional(name) or _WEIGHTS.search(key)):
        return reps.fixed
    if known is None and _ARROWS.search(key) and not _FEATURES.search(key) and shape[-1:] == (3,):
        return reps.vector
    if isinstance(known, reps.CartesianTensor) and known.rank == 2 and shape[-1:] == (6,):
        if key.startswith("inferred_"):
            return reps.voigt("xx yy zz xy yz xz")  # nobody but SevenNet says inferred
        return reps.voigt()  # the order is a convention; ASE's is the usual one, and the announcement shows it
    if isinstance(known, frames.Frame) and shape[-1:] == (7,):
        return frames.frame("quaternion")
    return known


def is_fractional(name: str) -> bool:
    """Whether a name says fractional coordinates, which do not rotate.

    >>> [is_fractional(name) for name in ("frac_coords", "scaled_positions", "fraction", "scale")]
    [True, True, False, False]
    """
    return bool(_FRACTIONAL.search(plain(name)))


def is_predicted(name: str) -> bool:
    """Whether a name says a label or an output, rather than something that a network is given.

    >>> [is_predicted(name) for name in ("y", "forces", "pred_noise", "edge_attr")]
    [True, True, True, False]
    """
    return bool(_PREDICTED.search(plain(name)))


def is_hidden(name: str) -> bool:
    """Whether a name says features inside of a network, or a loss, rather than what the network is asked for.

    >>> [is_hidden(name) for name in ("node_feats", "node_attrs", "hidden_states", "loss", "energy")]
    [True, True, True, True, False]
    """
    return bool(_HIDDEN.search(plain(name)))


def joined_matrices(name: str, shape: tuple[int, ...], *, single: bool = False) -> bool:
    """Whether a tensor holds matrices of several structures one below the other, ``(3B, 3)``; B = 1 only if asked for.

    >>> joined_matrices("stress", (12, 3)), joined_matrices("stress", (3, 3)), joined_matrices("forces", (12, 3))
    (True, False, False)
    """
    rows = len(shape) == 2 and shape[1] == 3 and shape[0] % 3 == 0 and shape[0] >= (3 if single else 6)
    return rows and plain(name) in _MATRICES


def holds_edges(name: str) -> bool:
    """Whether a name says attributes of edges, which may be features or arrows.

    >>> [holds_edges(name) for name in ("edge_attr", "edge_vec", "x")]
    [True, False, False]
    """
    return bool(_FEATURES.search(plain(name)))


def holds_harmonics(name: str) -> bool:
    """Whether a name says spherical harmonics.

    >>> [holds_harmonics(name) for name in ("edge_sh", "ylm", "shift")]
    [True, True, False]
    """
    return bool(_HARMONICS.search(plain(name)))
