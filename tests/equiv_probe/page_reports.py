"""Reports for the tests of pages, figures and comparisons: of an audit, and of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.estimation.estimates import Sums
from equiv_probe.landscape.gradients import of_blocks
from equiv_probe.landscape.live_gradients import LiveGradients
from equiv_probe.landscape.parameter_groups import grouped
from equiv_probe.results.measured import Labelled, Measured
from equiv_probe.results.report import Report

if TYPE_CHECKING:
    from equiv_probe.results.gradient_record import GradientRecord

NAN = math.nan
MOLECULES = {"water": ("OHH", 3), "methane": ("CHHHH", 5), "salt": ("NaCl", 2), "ammonia": ("NHHH", 4)}


def structure(name: str, rms: float, *, unit_error: float = 1.0, symbols: list[str] | None = None) -> dict[str, Any]:
    """A record as an audit keeps it, with positions on a helix."""
    symbols = symbols or ["O", "H", "H"]
    count = len(symbols)
    at = np.arange(count)
    positions = np.stack([np.cos(at), np.sin(at), 0.3 * at], -1).round(4).tolist()
    forces = {
        "rms": rms,
        "equiv": rms**2,
        "equiv_stderr": 0.1 * rms**2,
        "relative": 0.05,
        "floor": 1e-3,
        "nondeterminism": 0.0,
        "largest": 3 * rms,
        "weight": 3.0 * count,
        "worst_atoms": [{"atom": 0, "element": symbols[0], "rms": 2 * rms}],
        "per_atom": [rms * (1 + 0.5 * (i % 3)) * unit_error for i in range(count)],
        "labelled": {"total": 10 * rms**2, "mean": 9 * rms**2, "equiv": rms**2, "weight": 3.0 * count},
    }
    return {
        "key": f"0:{name}",
        "name": name,
        "formula": "".join(symbols),
        "n_atoms": count,
        "rotations": 48,
        "quantities": {"forces": forces},
        "geometry": {"symbols": symbols, "positions": positions, "cell": None},
    }


def measured(name: str = "forces", unit: str = "meV/Å", **changes: Any) -> Measured:
    """Forces that are broken, with everything that a figure can show."""
    plain: dict[str, Any] = {
        "structures": 4,
        "rms": 138.0,
        "rms_interval": (128.0, 148.0),
        "equiv": 19044.0,
        "equiv_stderr": 1000.0,
        "relative": 0.049,
        "floor": 0.0047,
        "nondeterminism": 0.0,
        "verdict": "broken",
        "sentence": "broken: 3e4 times the round-off floor",
        "over_structures": {"q50": 20.0, "q95": 40.0, "max": 45.0, "worst": "salt"},
        "over_rotations": {"q50": 25.0, "q95": 50.0, "max": 90.0},
        "largest": 300.0,
        "by_element": {"Na": {"rms": 10.0, "atoms": 4.0}, "Cl": {"rms": 30.0, "atoms": 4.0}},
        "worst_atoms": [{"structure": "salt", "atom": 3, "element": "Cl", "rms": 45.5}],
        "labelled": Labelled(
            "mse", "(meV/Å)²", 4, 91204.0, 900.0, 72160.0, 800.0, 19044.0, 1000.0, (17000.0, 21000.0), 0.2088, 0.01,
            (0.188, 0.229)
        ),
        "angular": {
            "power": [9522.0, 4761.0, 300.0],
            "stderr": [500.0, 400.0, 9000.0],
            "rest": 4461.0,
            "rest_stderr": 9000.0,
            "by_angle": [1000.0, 4000.0, 9000.0, 14000.0, 17000.0, 19000.0, 20000.0, 21000.0, None],
            "by_axis": [float(x) for x in range(100, 148)],
        },
    }  # fmt: skip
    return Measured(name, unit, **{**plain, **changes})


def audit_report(**changes: Any) -> Report:
    """Of four structures."""
    plain: dict[str, Any] = {
        "model": "a model",
        "source": "salts.xyz",
        "protocol": {"plan": "4 × tetrahedral", "rotations": 96},
        "measured": [measured()],
        "structures": [structure(name, 20.0 + place) for place, name in enumerate(MOLECULES)],
        "failures": [{"name": "bad", "error": "KeyError: 'Xe'"}],
        "notes": ["a note"],
        "blind_spots": ["what cannot be seen"],
    }
    return Report(**{**plain, **changes})


def run_report(*, x: str = "step", **changes: Any) -> Report:
    """Of a training run, with a history."""
    history = [
        {x: 50 * place, "stage": stage, "output": "loss", "share": 0.1 + 0.01 * place, "share_stderr": 0.005,
         "L_total": 2.0 - 0.1 * place, "L_total_stderr": 0.1, "L_equiv": 0.2}
        for place in range(8) for stage in ("train", "val")
    ]  # fmt: skip
    labelled = Labelled(
        "of the step", "loss", 10, 1.3, 0.1, 1.1, 0.1, 0.2, 0.02, (0.17, 0.24), 0.17, 0.02, (0.13, 0.21)
    )
    none: dict[str, Any] = dict.fromkeys(("rms", "relative", "floor", "nondeterminism", "equiv", "equiv_stderr"), NAN)
    found = [
        Measured(
            f"{stage}/loss", "loss", 10, rms_interval=(NAN, NAN), verdict="", sentence="", labelled=labelled, **none
        )
        for stage in ("train", "val")
    ]
    plain: dict[str, Any] = {
        "model": "Net",
        "source": "a run of 400 steps",
        "protocol": {"steps": 400},
        "measured": found,
        "history": history,
    }
    return Report(**{**plain, **changes})


def sampled_report(name: str, equiv: Any, total: Any, weight: Any, names: list[str] | None = None) -> Report:
    """An audit with these per-structure values, summed up as audits are.

    Args:
        name: of the model.
        equiv: ``L_equiv`` of each structure, ``(U,)``.
        total: ``L_total`` of each.
        weight: of each in the loss.
        names: of the structures.
    """
    records = []
    for place, (e, t, w) in enumerate(zip(equiv, total, weight, strict=True)):
        record = structure(names[place] if names else f"s{place}", math.sqrt(max(e, 0.0)))
        known = {"equiv": float(e), "total": float(t), "mean": float(t - e), "weight": float(w)}
        record["quantities"]["forces"] |= {"equiv": float(e), "weight": float(w), "labelled": known}
        records.append(record)
    sums = Sums.of(*(torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (equiv, total, weight)))
    e, t, m, s = sums.equiv, sums.total, sums.mean, sums.share
    labelled = Labelled(
        "mse", "(meV/Å)²", len(records), t.value, t.stderr, m.value, m.stderr, e.value, e.stderr, (e.low, e.high),
        s.value, s.stderr, (s.low, s.high)
    )  # fmt: skip
    one = measured(
        rms=math.sqrt(e.value), rms_interval=(math.sqrt(e.low), math.sqrt(e.high)), equiv=e.value, labelled=labelled
    )
    return audit_report(model=name, structures=records, measured=[one])


def dynamics(explained: bool = True) -> Report:
    """A trajectory in which the torque about z is constant: the angular momentum grows with time."""
    rows = [
        {"stage": "md", "step": k, "time_fs": 0.5 * k, "energy_change_eV": 0.01 * k, "net_torque_eV": 2.0,
         **{f"angular_change_{a}_eV_fs": float(k) if a == "z" else 0.0 for a in "xyz"},
         **{f"angular_impulse_{a}_eV_fs": float(k) * explained if a == "z" else 0.0 for a in "xyz"}}
        for k in range(5)
    ]  # fmt: skip
    rows[2]["forces_rms_meV_per_A"], rows[4]["forces_rms_meV_per_A"] = 90.0, 110.0  # measured at some steps only
    return run_report(history=rows)


def gradients(
    ratio: float = 0.5, cosine: float = 0.0, noise: float = 0.05, groups: tuple[str, ...] = ("encoder",), seed: int = 0
) -> dict[str, GradientRecord]:
    """Gradients of a run as its report holds them, with their history: noisy copies of a pair of this kind.

    Args:
        ratio: ``‖∇L_equiv‖ / ‖∇L_mean‖`` without noise; ``∇L_mean`` has length one.
        cosine: of the angle between them.
        noise: standard deviation of every entry, there are four for each group.
        groups: of parameters.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    count = len(groups)
    mean = np.tile([1.0, 0.0, 0.0, 0.0], count) / math.sqrt(count)
    equiv = ratio * np.tile([cosine, math.sqrt(1 - cosine**2), 0.0, 0.0], count) / math.sqrt(count)
    parameters = {f"{name}.weight": torch.zeros(4) for name in groups}
    live = LiveGradients(True, lambda name: name.rpartition(".")[0], 20)
    history = []
    for step in range(8):
        rows = [
            [[torch.tensor(part) for part in np.split(one + noise * random.normal(size=4 * count), count)]
             for _ in range(3)] for one in (mean, equiv)
        ]  # fmt: skip
        live.add("loss", of_blocks(rows[0], rows[1], parameters, grouped(parameters, live.groups)))
        values = live.values(live.latest())
        history.append({"step": 50 * step, **{key.removeprefix("loss/"): float(v) for key, v in values.items()}})
    found = live.shown()
    found["train/loss"].history.extend(history)
    return found
