"""Real `spktrain` runs, as a user starts them: what is logged, and weights that do not know of it, bit for bit."""

from __future__ import annotations

import csv
import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import equiv_probe as ep

from .. import warm_processes

pytestmark = pytest.mark.slow

ROOT = Path(ep.__file__).parents[1]
STUDY = ROOT / "integrations" / "schnetpack_training"
MOLECULES = ROOT / "integrations" / "force_field" / "data" / "molecules.extxyz"
CALLBACK = (
    "+callbacks.equivariance._target_=equiv_probe_schnetpack.EquivarianceCallback",
    "+callbacks.equivariance.every=3",
    "+callbacks.equivariance.full=1",
    "+callbacks.equivariance.cost=null",
)
SMALL = {
    "painn": (
        "model/representation=painn",
        "model.representation.n_atom_basis=16",
        "model.representation.radial_basis.n_rbf=8",
    ),
    "unconstrained": ("model/representation=unconstrained", "model.representation.n_atom_basis=16"),
}
WAYS = [("painn", "callback"), ("unconstrained", "variable")]


def environment(**extra: str) -> dict[str, str]:
    path = [str(ROOT), str(ROOT / "plugins"), str(STUDY)]
    kept = {name: value for name, value in os.environ.items() if name != "EQUIV_PROBE"}
    own = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    return {**kept, **own, **extra}


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train for 60 steps, once for every way to ask; the folder with what came of it."""
    folder = tmp_path_factory.mktemp("spktrain")
    database = folder / "molecules.db"
    made = warm_processes.run(
        STUDY / "make_data.py", MOLECULES, database, cwd=folder, env=environment(), imported=warm_processes.SCHNETPACK
    )
    assert made.returncode == 0, made.stderr

    @functools.cache
    def run(kind: str, way: str) -> Path:
        name = f"{kind}-{way}"
        asked = CALLBACK if way == "callback" else ()
        variable = {"EQUIV_PROBE": "every=3"} if way == "variable" else {}
        command = [
            f"--config-dir={STUDY}", "experiment=rotated", "+seed=1",
            f"data.datapath={database}", f"run.path={folder}", f"run.id={name}", f"data.split_file={folder / name}.npz",
            "data.batch_size=4", "data.num_train=40", "data.num_val=12", "data.num_test=8", "trainer.max_epochs=6",
            *SMALL[kind], *asked,
        ]  # fmt: skip
        done = warm_processes.run(
            "schnetpack.cli:train",
            *command,
            cwd=folder,
            env=environment(**variable),
            imported=warm_processes.SCHNETPACK,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / name / "printed").write_text(done.stdout + done.stderr)
        return folder / name

    return run


def logged(run: Path) -> list[dict[str, str]]:
    with (run / "csv" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def last(run: Path, column: str) -> float:
    return float([row[column] for row in logged(run) if row.get(column)][-1])


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_training_with_it_is_bit_identical(train: Any, kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDY)  # from where the stored model is unpickled
    without, probed = train(kind, "nothing"), train(kind, way)
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=False) for run in (without, probed)]
    assert states[0]["global_step"] == states[1]["global_step"] == 60
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert _same(states[0][part], states[1][part]), part
    best = [torch.load(run / "best_model", weights_only=False) for run in (without, probed)]
    assert _same(best[0].state_dict(), best[1].state_dict())
    # The user's own log too: every number, at the same steps.
    rows = [
        [{name: value for name, value in row.items() if value and not name.startswith("equiv/")} for row in logged(run)]
        for run in (without, probed)
    ]
    assert [row for row in rows[0] if len(row) > 2] == [row for row in rows[1] if len(row) > 2]


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_what_is_logged(train: Any, kind: str, way: str) -> None:
    run = train(kind, way)
    columns = set(logged(run)[0])
    for stage in ("train", "val", "test"):
        for output in ("energy", "forces", "loss"):
            for number in ("L_total", "L_mean", "L_equiv", "share"):
                name = f"equiv/{stage}/{output}/{number}"
                assert {name, f"{name}_stderr"} <= columns
            total, mean, equiv, share = (
                last(run, f"equiv/{stage}/{output}/{n}") for n in ("L_total", "L_mean", "L_equiv", "share")
            )
            # CSV rows hold seven digits or more.
            assert total == pytest.approx(mean + equiv, rel=1e-5)
            assert share == pytest.approx(equiv / total, rel=1e-4, abs=1e-12)
        parts = {o: last(run, f"equiv/{stage}/{o}/L_total") for o in ("energy", "forces", "loss")}
        # Over batches of molecules of different sizes the forces' mean is over atoms, that of the loss over batches.
        assert parts["loss"] == pytest.approx(0.01 * parts["energy"] + 0.99 * parts["forces"], rel=0.03)
        share = last(run, f"equiv/{stage}/loss/share")
        if kind == "painn":
            assert abs(share) < 1e-10, "single precision: (1e-6)², with room"
        else:
            assert share > 1e-4
    printed = (run / "printed").read_text()
    title = next(line for line in printed.splitlines() if line.startswith("Losses of the run"))
    head = printed[printed.index(title) :].splitlines()[1:4]
    assert all(name in " ".join(head) for name in ("L_total", "L_mean", "L_equiv"))


def test_the_loss_that_is_decomposed_is_the_loss_that_is_trained(train: Any) -> None:
    """An equivariant model's L_total is its loss whatever the rotation: in validation it is the task's own number."""
    run = train("painn", "callback")
    for row in logged(run):
        if row.get("equiv/val/loss/L_total"):
            assert float(row["equiv/val/loss/L_total"]) == pytest.approx(float(row["val_loss"]), rel=1e-4)
    assert any(row.get("equiv/val/loss/L_total") for row in logged(run))


def test_the_study_shows_the_share_against_the_step(train: Any) -> None:
    run = train("unconstrained", "variable")
    done = warm_processes.run(STUDY / "share.py", run, cwd=run, env=environment(), imported=warm_processes.SCHNETPACK)
    share = last(run, "equiv/train/loss/share")
    assert f"{100 * share:.3g} % ±" in done.stdout.splitlines()[-1]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
