"""What assertions of equivariance find: ours, e3nn's and NequIP's, on the same planted defects, and their times.

    python tests/benchmarks/bench_assertions.py

e3nn's takes a function of points to irreps, rotates (with parity and translation) and compares with one tolerance.
NequIP's calls it and reorders atoms; it is asked where nequip is installed (``make hosts HOST=nequip``). SchNetPack's
own suite holds no test that rotates, reflects, moves or reorders a structure (tests/ of version 2.2.0).
"""

from __future__ import annotations

import importlib.util
import time
from typing import TYPE_CHECKING

import torch
from e3nn.util.test import assert_equivariant as of_e3nn
from rich.console import Console
from rich.table import Table

import equiv_probe as ep
from equiv_probe.testing import assert_equivariant

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

GROUPS = ("SO(3)", "O(3)", "translation", "permutation")
SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})


def distances(x: Tensor) -> Tensor:
    return ((x[:, None] - x[None]).square().sum(-1) + 1).sqrt()


def sound(x: Tensor) -> tuple[Tensor, Tensor]:
    weights = (-distances(x)).exp()
    return weights.sum().reshape(1), (weights[..., None] * (x[:, None] - x[None])).sum(1)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def changed(energy: Callable[[Tensor], Tensor], *, forces: Callable[[Tensor], Tensor] = torch.zeros_like) -> Callable:
    return lambda x: (sound(x)[0] + energy(x).reshape(1), sound(x)[1] + forces(x))


def nothing(x: Tensor) -> Tensor:
    return x.new_zeros(())


def handed(x: Tensor) -> Tensor:
    """A triple product of three sums over atoms with different weights."""
    d = distances(x)
    weights = torch.stack([d.sum(1), (-d).exp().sum(1), (d - 2).square().sum(1)])
    return torch.linalg.det(torch.nn.functional.normalize(weights - weights.mean(1, keepdim=True)) @ centred(x))


def axial(x: Tensor) -> Tensor:
    return torch.linalg.cross(centred(x), (-2 * distances(x)).exp() @ centred(x))


MODELS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor]], bool]] = {
    "sound": (sound, False),
    "sound, far from the origin": (sound, False),
    "sound, large numbers": (lambda x: tuple(1e6 * one for one in sound(x)), False),
    "sound, small numbers": (lambda x: tuple(1e-8 * one for one in sound(x)), False),
    "one axis": (changed(lambda x: centred(x)[:, 2].square().sum()), True),
    "one axis, small numbers": (lambda x: tuple(1e-8 * one for one in MODELS["one axis"][0](x)), True),
    "one axis, a thousandth": (changed(lambda x: 1e-3 * centred(x)[:, 2].square().sum()), True),
    "fourth powers": (changed(lambda x: centred(x).pow(4).sum()), True),
    "handedness": (changed(handed), True),
    "axial forces": (changed(nothing, forces=axial), True),
    "where it is": (changed(lambda x: 0.1 * x.mean(0).square().sum()), True),
    "first atom": (changed(lambda x: centred(x)[0].square().sum()), True),
    "constant": (lambda x: (x.new_ones(1), torch.zeros_like(x)), True),
    "dropout": (lambda x: tuple(torch.nn.functional.dropout(one, 0.5) for one in sound(x)), True),
}


def ours(model: Callable, x: Tensor, group: str) -> str:
    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        energy, forces = model(inputs["pos"])
        return {"energy": energy, "forces": forces}

    return said(lambda: assert_equivariant(predict, {"pos": x}, SCHEMA, group=group, diagnose=False))


def theirs(model: Callable, x: Tensor) -> str:
    outputs = ["1x0e", "1x1o"]
    return said(
        lambda: of_e3nn(
            model, args_in=[x], irreps_in=["cartesian_points"], irreps_out=outputs, do_parity=True, do_translation=True
        )
    )


def nequips(model: Callable, x: Tensor) -> str:
    """NequIP's assertion, with all pairs as edges; it asks for a module that declares irreps."""
    from e3nn import o3
    from nequip.nn import GraphModuleMixin
    from nequip.utils.test import assert_AtomicData_equivariant

    class Wrapped(GraphModuleMixin, torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            vectors = {"pos": o3.Irreps("1o")}
            self._init_irreps(irreps_in=vectors, irreps_out={"total_energy": "0e", "forces": "1o"})
            self.irreps_in = vectors

        def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
            energy, forces = model(data["pos"])
            return {**data, "total_energy": energy[None], "forces": forces}

    edges = (~torch.eye(len(x), dtype=torch.bool)).nonzero().T
    given = {"pos": x, "edge_index": edges, "atom_types": torch.zeros(len(x), dtype=torch.long)}
    return said(lambda: assert_AtomicData_equivariant(Wrapped(), given))


def said(check: Callable[[], object]) -> str:
    try:
        check()
    except AssertionError:
        return "fails"
    except Exception as error:  # what it says is the result
        return type(error).__name__
    return "passes"


THEIRS = {"e3nn": theirs, **({"nequip": nequips} if importlib.util.find_spec("nequip") else {})}


def main() -> None:
    torch.manual_seed(0)
    asked = (*GROUPS, *THEIRS)
    table = Table("model", "should", *asked, title="What assertions say")
    x = torch.randn(8, 3)
    times = dict.fromkeys(asked, 0.0)
    right = dict.fromkeys(["ours", *THEIRS], 0)
    for name, (model, broken) in MODELS.items():
        points = x + 30 if "far" in name else x
        row = []
        for who in asked:
            began = time.perf_counter()
            row.append(THEIRS[who](model, points) if who in THEIRS else ours(model, points, who))
            times[who] += time.perf_counter() - began
        found = {"ours": row[: len(GROUPS)], **{who: [row[asked.index(who)]] for who in THEIRS}}
        for who, words in found.items():
            right[who] += any(word != "passes" for word in words) == broken
        table.add_row(name, "fail" if broken else "pass", *row)
    table.add_section()
    table.add_row("ms each", "", *(f"{1e3 * one / len(MODELS):.1f}" for one in times.values()))
    console = Console(width=130)
    console.print(table)
    console.print(", ".join(f"{who}: {count} of {len(MODELS)} right" for who, count in right.items()))
    if "nequip" not in THEIRS:
        console.print(
            "NequIP is not installed here: make hosts HOST=nequip, and run this with that environment's Python."
        )


if __name__ == "__main__":
    main()
