"""Augmentations of users: right ones pass, and each fault is found and said, with real PyG and a real DataLoader."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable  # noqa: TC003
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.transforms import Compose, RandomJitter, RandomRotate, RandomScale

import equiv_probe as ep
from equiv_probe.augmentation.sample_layout import generic_sample
from equiv_probe.rotations.haar import generators, haar

Names = dict[str, Tensor]


def scipy_rotation() -> Tensor:
    return torch.from_numpy(Rotation.random().as_matrix())


def three_angles() -> Tensor:
    g = torch.eye(3, dtype=torch.float64)
    for generator in generators():
        g = torch.linalg.matrix_exp(2 * torch.pi * torch.rand((), dtype=torch.float64) * generator) @ g
    return g


def rotating(draw: Callable[[], Tensor], **wrong: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Names], Names]:
    """A transform that rotates everything in the generic sample as it should, but for what is given."""
    right: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "pos": lambda g, x: x @ g.T,
        "forces": lambda g, x: x @ g.T,
        "dipole": lambda g, x: g @ x,
        "cell": lambda g, x: x @ g.T,
        "stress": lambda g, x: g @ x @ g.T,
    }

    def transform(sample: Names) -> Names:
        g = draw()
        how = {**right, **wrong}
        return {name: how[name](g, value) if name in how else value for name, value in sample.items()}

    return transform


def verdicts(check: ep.AugmentationCheck) -> dict[str, bool | None]:
    return {finding.name: finding.passed for finding in check.findings}


ALL_WELL = {
    "rigid": True,
    "proper": True,
    "Haar": True,
    "independent": True,
    "labels: forces": True,
    "labels: dipole": True,
    "labels: cell": True,
    "labels: stress": True,
    "what does not rotate": True,
    "in place": True,
}


@pytest.mark.parametrize("draw", [scipy_rotation, lambda: haar(1, torch.default_generator)[0]], ids=["scipy", "ours"])
def test_a_right_augmentation_passes(draw: Callable[[], Tensor]) -> None:
    check = ep.check_augmentation(rotating(draw))
    assert verdicts(check) == ALL_WELL
    assert check.ok
    assert check.rotations.shape == (400, 3, 3)
    check.raise_if_wrong()


def test_it_finds_the_rotations_that_were_drawn() -> None:
    drawn: list[Tensor] = []

    def draw() -> Tensor:
        drawn.append(scipy_rotation())
        return drawn[-1]

    check = ep.check_augmentation(rotating(draw), generic_sample())
    assert len(drawn) == 400, "one call for each draw"
    # float64 rounding of an SVD of numbers of order one.
    assert torch.allclose(check.rotations, torch.stack(drawn), atol=1e-12, rtol=0)


@pytest.mark.slow
def test_false_alarms_are_rarer_than_alpha() -> None:
    alarms = 0
    for seed in range(60):
        check = ep.check_augmentation(rotating(scipy_rotation), draws=60, alpha=0.2, seed=seed)
        alarms += not check.ok
    assert alarms <= 22, "20 % of 60, and 3.2 standard deviations"
    assert alarms >= 1, "the tests are not idle: two parts of three of the level are used"


def test_three_angles_are_not_haar() -> None:
    check = ep.check_augmentation(rotating(three_angles))
    assert verdicts(check) == {**ALL_WELL, "Haar": False}
    assert "Euler" in check["Haar"].sentence
    with pytest.raises(ep.EquivProbeError, match="three uniform Euler angles"):
        check.raise_if_wrong()


def test_reflections_pass_only_where_they_are_wanted() -> None:
    def draw() -> Tensor:
        return scipy_rotation() * random.choice([-1, 1])

    check = ep.check_augmentation(rotating(draw))
    assert verdicts(check) == {**ALL_WELL, "proper": False}
    assert ep.check_augmentation(rotating(draw), improper=True).ok
    assert not ep.check_augmentation(rotating(scipy_rotation), improper=True)["Haar"].passed, "none is improper"


def test_no_rotation_at_all() -> None:
    check = ep.check_augmentation(dict)
    assert check["Haar"].sentence == "nothing is rotated"
    assert not check.ok


OTHERWISE: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor], str]] = {
    "stale forces": ("forces", lambda g, x: x, "stale"),
    "stale dipole": ("dipole", lambda g, x: x, "stale"),
    "stale stress": ("stress", lambda g, x: x, "stale"),
    "inverse forces": ("forces", lambda g, x: x @ g, "inverse"),
    "inverse dipole": ("dipole", lambda g, x: x @ g, "inverse"),
    "inverse stress": ("stress", lambda g, x: g.T @ x @ g, "inverse"),
    "stress on one side": ("stress", lambda g, x: g @ x, "but not as the positions do"),
    "cell by columns": ("cell", lambda g, x: g @ x, "columns"),
    "other rotation": ("forces", lambda g, x: x @ scipy_rotation().T, "something else"),
    "noisy forces": ("forces", lambda g, x: x @ g.T + 0.01 * torch.randn_like(x), "but not as the positions do"),
    "energy changes": ("energy", lambda g, x: x + 1e-3, "scalar"),
    "numbers change": ("z", lambda g, x: x.flip(0), "does not rotate"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_labels_that_do_not_rotate_along(case: str) -> None:
    name, how, words = OTHERWISE[case]
    check = ep.check_augmentation(rotating(scipy_rotation, **{name: how}), draws=60)
    wrong = check[f"labels: {name}"]
    assert wrong.passed is False
    assert words in wrong.sentence
    assert [one.name for one in check.wrong] == [wrong.name], "nothing else is blamed"


@pytest.mark.slow
def test_voigt_stress_in_another_order() -> None:
    ase, other = ep.voigt(), ep.voigt("xx yy zz xy yz xz")
    sample = {"pos": generic_sample()["pos"], "stress": torch.randn(6, dtype=torch.float64)}
    for schema, passed in ((None, False), (ep.Schema({"pos": ep.point}, {"stress": other}), True)):
        check = ep.check_augmentation(rotating(scipy_rotation, stress=lambda g, x: other.rotate(x, g)), sample, schema)
        assert check["labels: stress"].passed is passed
    assert (
        "xx yy zz xy yz xz"
        in ep.check_augmentation(rotating(scipy_rotation, stress=lambda g, x: other.rotate(x, g)), sample)[
            "labels: stress"
        ].sentence
    )
    assert ep.check_augmentation(rotating(scipy_rotation, stress=lambda g, x: ase.rotate(x, g)), sample).ok


def test_what_cannot_be_judged_is_said_and_not_blamed() -> None:
    sample = {**generic_sample(), "forces": torch.zeros(6, 3), "stress": 2 * torch.eye(3), "y": torch.randn(6, 3)}
    check = ep.check_augmentation(
        rotating(
            lambda: scipy_rotation().float(),
            cell=lambda g, x: x @ g.double().T,
            pos=lambda g, x: x @ g.double().T,
            dipole=lambda g, x: g.double() @ x,
        ),
        sample,
    )
    assert check.ok
    for name in ("forces", "stress", "y"):
        assert check[f"labels: {name}"].passed is None
    assert "declare it" in check["labels: y"].sentence
    declared = ep.Schema(inputs={"pos": ep.point}, outputs={"y": ep.vector})
    moved = rotating(scipy_rotation, forces=lambda g, x: x, stress=lambda g, x: x)
    assert "stale" in ep.check_augmentation(moved, sample, declared)["labels: y"].sentence


@pytest.mark.parametrize("name", ["y", "extra"])
def test_entries_that_nobody_declared(name: str) -> None:
    """A denoising target is noise, of which nothing is known; a vector that rotates the wrong way is seen."""
    sample = {"pos": generic_sample()["pos"], name: torch.randn(6, 3, dtype=torch.float64)}
    cases: list[tuple[Callable[[Tensor, Tensor], Tensor], bool | None, str]] = [
        (lambda g, x: torch.randn_like(x), None, "changes from draw to draw"),
        (lambda g, x: x, None, "stays as it was"),
        (lambda g, x: x @ g.T, True, "as ep.vector"),
        (lambda g, x: x @ g, False, "inverse"),
        (lambda g, x: x @ scipy_rotation(), False, "something else"),
    ]
    for how, passed, words in cases:
        finding = ep.check_augmentation(rotating(scipy_rotation, **{name: how}), sample, draws=60)[f"labels: {name}"]
        assert finding.passed is passed
        assert words in finding.sentence


def test_a_small_change_of_the_energy_is_seen_beside_rough_positions() -> None:
    """Positions in float32 far from the origin tell the rotation badly; a scalar needs no rotation."""
    sample = {"pos": generic_sample()["pos"].float() + 1000, "energy": torch.ones(1)}
    how = rotating(lambda: scipy_rotation().float(), energy=lambda g, x: x + 1e-4)
    assert ep.check_augmentation(how, sample, draws=60)["labels: energy"].passed is False


def test_empty_entries_and_numbers() -> None:
    sample = {"pos": generic_sample()["pos"], "forces": torch.zeros(0, 3), "energy": -1.5, "n": 6, "name": "x"}
    transform = rotating(scipy_rotation, forces=lambda g, x: x)
    assert ep.check_augmentation(transform, sample, draws=60).ok
    worse = ep.check_augmentation(lambda s: {**transform(s), "energy": s["energy"] + 1}, sample, draws=60)
    assert [one.name for one in worse.wrong] == ["labels: energy"]


def test_flat_molecules_of_a_batch_are_judged_by_their_plane() -> None:
    water = Data(pos=torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]]), force=torch.randn(3, 3))
    pair = Data(pos=torch.tensor([[0.0, 0, 0], [0, 1, 0]]), force=torch.randn(2, 3))
    full = Data(pos=generic_sample()["pos"].float(), force=torch.randn(6, 3))
    batch = Batch.from_data_list([pair, water, full])
    assert ep.check_augmentation(RightForPyG(), sample=batch, draws=60).ok

    class WaterIsStale(RightForPyG):
        def __call__(self, data: Data) -> Data:
            rotated = super().__call__(data)
            rotated.force = torch.cat([rotated.force[:2], data.force[2:5], rotated.force[5:]])
            return rotated

    check = ep.check_augmentation(WaterIsStale(), sample=batch, draws=60)
    assert [one.name for one in check.wrong] == ["labels: force"]


def test_what_is_not_rigid() -> None:
    sample = {"pos": generic_sample()["pos"]}
    size = torch.tensor([1.0, 1.0, 1.1], dtype=torch.float64)
    cases: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "scaled by 1.2 to 1.2": lambda g, x: 1.2 * x @ g.T,
        "stretched by 1 to 1.1": lambda g, x: (x * size) @ g.T,
        "displaced": lambda g, x: (x + 0.05 * torch.randn_like(x)) @ g.T,
    }
    for words, how in cases.items():
        check = ep.check_augmentation(rotating(scipy_rotation, pos=how), sample)
        assert verdicts(check) == {"rigid": False, "proper": True, "Haar": True, "independent": True, "in place": True}
        assert words in check["rigid"].sentence
    # √(3 · 0.05²) Å for each atom, less the six degrees of freedom of the fit among eighteen.
    assert check["rigid"].statistic > 0.05
    found = float(check["rigid"].sentence.split(" by ")[1].split(" Å")[0])
    assert found == pytest.approx(0.05 * 3**0.5 * (12 / 18) ** 0.5, rel=0.05), "mean over 400 draws"


def test_rotation_about_any_centre_and_translation_are_rigid() -> None:
    def transform(sample: Names) -> Names:
        g, shift = scipy_rotation(), 10 * torch.randn(3, dtype=torch.float64)
        return {"pos": sample["pos"] @ g.T + shift, "coords": sample["coords"] @ g.T + shift}

    sample = {"pos": generic_sample()["pos"] + 5, "coords": torch.randn(4, 3, dtype=torch.float64)}
    assert ep.check_augmentation(transform, sample).ok
    stale = ep.check_augmentation(lambda s: {**transform(s), "coords": s["coords"]}, sample)
    assert "stale" in stale["labels: coords"].sentence


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_positions_far_from_the_origin_pass(offset: float) -> None:
    sample = {"pos": generic_sample()["pos"].float() + offset, "forces": torch.randn(6, 3)}
    step = rotating(lambda: scipy_rotation().float())
    assert ep.check_augmentation(step, sample).ok


@pytest.mark.slow
def test_the_same_rotation_again() -> None:
    fixed = scipy_rotation()
    assert "cached" in ep.check_augmentation(rotating(lambda: fixed))["independent"].sentence
    few = haar(50)
    check = ep.check_augmentation(rotating(lambda: few[random.randrange(50)]))
    assert check["independent"].passed is False
    assert "only 50 different rotations in 400 draws" in check["independent"].sentence

    def seeded() -> Tensor:
        torch.manual_seed(0)
        return haar(1, torch.default_generator)[0]

    assert ep.check_augmentation(rotating(seeded))["independent"].passed is False


def test_draws_that_know_of_each_other() -> None:
    state = [torch.eye(3, dtype=torch.float64)]

    def walk() -> Tensor:
        state[0] = torch.linalg.matrix_exp((torch.randn(3)[:, None, None] * generators()).sum(0)) @ state[0]
        return state[0]

    assert "knows of the one before" in ep.check_augmentation(rotating(walk))["independent"].sentence


# PyG


def molecule(**more: Any) -> Data:
    sample = generic_sample()
    data = Data(pos=sample["pos"].float(), z=sample["z"], force=torch.randn(6, 3), energy=torch.zeros(1), **more)
    data.edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    return data


def test_random_rotate_of_pyg_is_caught() -> None:
    check = ep.check_augmentation(RandomRotate(degrees=180), sample=molecule())
    assert "about one axis only: x" in check["Haar"].sentence
    assert "stale" in check["labels: force"].sentence
    assert {one.name for one in check.wrong} == {"Haar", "labels: force"}


def test_random_rotate_about_each_axis_is_caught() -> None:
    transform = Compose([RandomRotate(180, axis=axis) for axis in range(3)])
    check = ep.check_augmentation(transform, sample=molecule())
    assert "one about each coordinate axis in sequence" in check["Haar"].sentence
    assert "stale" in check["labels: force"].sentence
    small = ep.check_augmentation(RandomRotate(15, axis=2), sample=molecule())
    assert "one axis only: z" in small["Haar"].sentence


def test_jitter_and_scale_of_pyg_are_not_rigid() -> None:
    assert "displaced" in ep.check_augmentation(RandomJitter(0.1), sample=molecule())["rigid"].sentence
    assert "scaled by 0.8" in ep.check_augmentation(RandomScale((0.8, 1.2)), sample=molecule())["rigid"].sentence


class RightForPyG:
    """Rotates a Data, or a whole Batch by one rotation or by one for each structure."""

    def __init__(self, each: bool = True) -> None:
        self.each = each

    def __call__(self, data: Data) -> Data:
        count = getattr(data, "num_graphs", 1) if self.each else 1
        g = haar(count, torch.default_generator).float()
        own = g[data.batch] if self.each and "batch" in data else g.expand(len(data.pos), 3, 3)
        data = copy.copy(data)
        data.pos = torch.einsum("nij,nj->ni", own, data.pos)
        data.force = torch.einsum("nij,nj->ni", own, data.force)
        return data


def test_a_right_transform_of_pyg_passes() -> None:
    assert ep.check_augmentation(RightForPyG(), sample=molecule()).ok


@pytest.mark.slow
def test_one_rotation_for_a_whole_batch_is_found() -> None:
    batch = Batch.from_data_list([molecule(), molecule(), molecule()])
    check = ep.check_augmentation(RightForPyG(), sample=batch)
    assert check.ok
    assert check["per structure"].passed
    check = ep.check_augmentation(RightForPyG(each=False), sample=batch)
    assert [one.name for one in check.wrong] == ["per structure"]


@pytest.mark.slow
def test_a_dense_batch() -> None:
    pos = torch.randn(4, 5, 3, dtype=torch.float64)

    def transform(batch: Names, count: int) -> Names:
        g = haar(count, torch.default_generator)
        return {"pos": batch["pos"] @ g.mT, "forces": batch["forces"] @ g.mT}

    batch = {"pos": pos, "forces": torch.randn_like(pos)}
    assert ep.check_augmentation(lambda b: transform(b, 4), batch)["per structure"].passed
    assert ep.check_augmentation(lambda b: transform(b, 4), batch).ok
    assert [one.name for one in ep.check_augmentation(lambda b: transform(b, 1), batch).wrong] == ["per structure"]


# The sample itself, and the state around the check


def test_a_transform_that_writes_into_the_sample_is_found_and_the_sample_is_safe() -> None:
    def in_place(sample: Names) -> Names:
        sample["pos"].copy_(sample["pos"] @ scipy_rotation().T)
        return sample

    def replacing(sample: Names) -> Names:
        sample["pos"] = sample["pos"] @ scipy_rotation().T
        return sample

    sample = {"pos": generic_sample()["pos"]}
    before = sample["pos"].clone()
    check = ep.check_augmentation(in_place, sample)
    assert check["in place"].passed is False
    assert "pos" in check["in place"].sentence
    assert check["Haar"].passed
    assert ep.check_augmentation(replacing, sample)["in place"].passed is None
    assert torch.equal(sample["pos"], before)


def states() -> list[Any]:
    numpy = np.random.get_state()[1].tobytes()  # noqa: NPY002 - what users' transforms draw from
    return [random.getstate(), numpy, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("fails", [False, True])
def test_global_random_states_are_as_before(fails: bool) -> None:
    def draw() -> Tensor:
        if fails and random.random() < 0.1:
            raise ValueError("the user's own")
        return scipy_rotation() @ haar(1, torch.default_generator)[0]

    before = states()
    if fails:
        with pytest.raises(ValueError, match="the user's own"):
            ep.check_augmentation(rotating(draw), generic_sample())
    else:
        ep.check_augmentation(rotating(draw))
    assert states() == before


def test_the_same_seed_gives_the_same_answer() -> None:
    a, b, c = (ep.check_augmentation(rotating(three_angles), draws=60, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.rotations, b.rotations)
    assert not torch.equal(a.rotations, c.rotations)
    assert [str(one) for one in a.findings] == [str(one) for one in b.findings]


# Datasets


class Molecules(Dataset[Names]):
    """Items rotated when they are fetched, by a generator of the kind that is asked for."""

    def __init__(self, kind: str = "global", flat_first: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.items = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(12)]
        if flat_first:
            self.items[0][:, 2] = 0
        self.kind, self.own, self.cache = kind, np.random.default_rng(0), {}
        self.count = 0

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, index: int) -> Tensor:
        if self.kind == "own generator":
            return torch.from_numpy(Rotation.random(random_state=self.own).as_matrix())
        if self.kind == "by index":
            return torch.from_numpy(Rotation.random(random_state=index).as_matrix())
        if self.kind == "by pass":
            self.count += 1
            return torch.from_numpy(Rotation.random(random_state=self.count // 12).as_matrix())
        return haar(1, torch.default_generator)[0]

    def __getitem__(self, index: int) -> Names:
        g = self.draw(index)
        pos = self.items[index]
        if self.kind == "in place":
            pos.copy_(pos @ g.T)
            return {"pos": pos, "energy": pos.new_zeros(1)}
        return {"pos": pos @ g.T, "forces": pos.flip(0) @ (g.T if self.kind != "stale" else torch.eye(3).double())}


def test_a_right_dataset_passes() -> None:
    for flat in (False, True):
        check = ep.check_augmentation(Molecules(flat_first=flat))
        assert check.ok
        assert check["Haar"].passed
        assert check["labels: forces"].passed
        assert check["per item"].passed


def test_a_dataset_of_pyg_with_its_own_transform(tmp_path: Any) -> None:
    class InMemory(InMemoryDataset):
        def __init__(self, transform: Any) -> None:
            super().__init__(str(tmp_path), transform)
            self.data, self.slices = self.collate([molecule(), molecule(), molecule()])

    assert ep.check_augmentation(InMemory(RightForPyG())).ok
    check = ep.check_augmentation(InMemory(RandomRotate(180)))
    assert {one.name for one in check.wrong} == {"Haar", "labels: force"}
    assert "one axis only: x" in check["Haar"].sentence


@pytest.mark.slow
def test_faults_of_datasets() -> None:
    assert "stale" in ep.check_augmentation(Molecules("stale"))["labels: forces"].sentence
    assert ep.check_augmentation(Molecules("by index"))["independent"].passed is False
    assert ep.check_augmentation(Molecules("in place"))["in place"].passed is False

    class Angles(Molecules):
        def draw(self, index: int) -> Tensor:
            return three_angles()

    assert "Euler" in ep.check_augmentation(Angles())["Haar"].sentence


def test_items_that_are_rotated_alike_in_one_pass() -> None:
    class Epochs(Molecules):
        """One rotation for each epoch, drawn when item 0 is fetched."""

        def draw(self, index: int) -> Tensor:
            if index == 0:
                self.g = super().draw(index)
            return self.g

    check = ep.check_augmentation(Epochs())
    assert check["Haar"].passed, "item by item there is nothing to blame"
    assert [one.name for one in check.wrong] == ["per item"]


@pytest.mark.slow
def test_workers_that_share_a_generator_are_found() -> None:
    """NumPy generators made in ``__init__`` are copied to each worker, and again in each epoch."""
    dataset = Molecules("own generator")
    assert ep.check_augmentation(dataset).ok, "in one process it is faultless"
    check = ep.check_augmentation(dataset, workers=2)
    assert [one.name for one in check.wrong] == ["workers"]
    assert "workers share" in check["workers"].sentence
    assert "second epoch repeats" in check["workers"].sentence
    assert ep.check_augmentation(Molecules(), workers=2)["workers"].passed, "torch seeds each worker and epoch anew"
    # 16 fetches by each of two workers in two epochs: four copies of 16 rotations are 16 · 6 equal pairs.
    assert check["workers"].statistic == 96


@pytest.mark.slow
def test_workers_of_a_transform() -> None:
    own = np.random.default_rng(0)
    check = ep.check_augmentation(
        rotating(lambda: torch.from_numpy(Rotation.random(random_state=own).as_matrix())), workers=2
    )
    assert check["workers"].passed is False
    assert ep.check_augmentation(rotating(scipy_rotation), workers=2)["workers"].passed, (
        "torch seeds NumPy's global state"
    )


# Samples of other kinds, and errors that teach


def test_samples_of_other_kinds() -> None:
    pos = generic_sample()["pos"]
    assert ep.check_augmentation(lambda x: x @ scipy_rotation().T).ok, "a tensor, found out by trying"
    assert ep.check_augmentation(lambda x: x @ scipy_rotation().numpy().T, pos.numpy()).ok

    def pair(sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        g = scipy_rotation()
        return sample[0] @ g.T, sample[1] @ g.T

    check = ep.check_augmentation(pair, (pos, pos.flip(0) * 2))
    assert "found out, not declared" in check["labels: 1"].sentence

    class Rotate(nn.Sequential):
        def forward(self, sample: Names) -> Names:
            return rotating(scipy_rotation)(sample)

    assert ep.check_augmentation(Rotate(nn.Identity())).ok


def test_errors_teach() -> None:
    flat = {"pos": torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]])}
    with pytest.raises(ep.EquivProbeError, match="not flat"):
        ep.check_augmentation(rotating(scipy_rotation), flat)
    with pytest.raises(ep.EquivProbeError, match="sample=dataset"):
        ep.check_augmentation(RandomRotate(180))
    with pytest.raises(ep.EquivProbeError, match="same atoms in the same order"):
        ep.check_augmentation(lambda s: {"pos": s["pos"][:4]}, generic_sample())
    with pytest.raises(ep.EquivProbeError, match=r"loader\.dataset"):
        ep.check_augmentation(torch.utils.data.DataLoader(Molecules()))
    with pytest.raises(ep.EquivProbeError, match="positions of shape"):
        ep.check_augmentation(lambda s: s, {"energy": torch.zeros(1)})
    with pytest.raises(ep.EquivProbeError, match="at least 50"):
        ep.check_augmentation(rotating(scipy_rotation), draws=10)
    with pytest.raises(ep.EquivProbeError, match="no finding"):
        ep.check_augmentation(rotating(scipy_rotation), draws=50)["haar"]


@pytest.mark.slow
def test_the_table_says_it() -> None:
    text = str(ep.check_augmentation(rotating(three_angles, forces=lambda g, x: x)))
    assert "Augmentation, 400 draws: 2 faults" in text
    assert "✗  Haar" in text
    assert "✗  labels: forces" in text
    assert "mean angle 12" in text


def test_progress_of_draws_is_logged_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("equiv_probe.progress.PATIENCE", 0.0)
    with caplog.at_level("INFO", "equiv_probe"):
        ep.check_augmentation(rotating(scipy_rotation), draws=50, progress=False)
        assert "drawing" not in caplog.text
        ep.check_augmentation(rotating(scipy_rotation), draws=50)
    assert "drawing from the augmentation: 1 of 50" in caplog.text


def hidden_sample() -> Data:
    pos, normal = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    edges = torch.combinations(torch.arange(9)).T
    arrows = pos[edges[1]] - pos[edges[0]]
    x = torch.cat([torch.rand(9, 3).double(), pos, normal], 1)
    bond = torch.cat([arrows.norm(dim=1, keepdim=True), arrows], 1)
    return Data(pos=pos, normal=normal, x=x, edge_index=edges, edge_attr=bond, y=torch.tensor([1.0]))


def rotated_with(data: Data, parts: set[str]) -> Data:
    g = scipy_rotation()
    rotated = data.clone()
    rotated.pos, rotated.normal = data.pos @ g.T, data.normal @ g.T
    if "x" in parts:
        rotated.x = torch.cat([data.x[:, :3], rotated.pos, rotated.normal], 1)
    if "half of x" in parts:
        rotated.x = torch.cat([data.x[:, :3], rotated.pos, data.normal], 1)
    if "edges" in parts:
        rotated.edge_attr = torch.cat([data.edge_attr[:, :1], data.edge_attr[:, 1:] @ g.T], 1)
    return rotated


@pytest.mark.parametrize(
    ("parts", "stale"),
    [
        ({"x", "edges"}, set()),
        ({"x"}, {"labels: edge_attr"}),
        ({"edges"}, {"labels: x"}),
        ({"half of x", "edges"}, {"labels: x"}),
        (set(), {"labels: x", "labels: edge_attr"}),
    ],
    ids=["all", "edges stale", "features stale", "half of the features", "both stale"],
)
def test_copies_of_coordinates_in_other_tensors_must_rotate_along(parts: set[str], stale: set[str]) -> None:
    data = hidden_sample()
    check = ep.check_augmentation(lambda one: rotated_with(one, parts), data, draws=200, progress=False)
    assert {finding.name for finding in check.wrong} == stale
    for name in {"labels: x", "labels: edge_attr"} - stale:
        assert "concat" in check[name].sentence

    class Items(Dataset[Data]):  # of a data set the first draw is rotated itself
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Data:
            return rotated_with(data, parts)

    items = ep.check_augmentation(Items(), draws=200, progress=False)
    assert {finding.name for finding in items.wrong} == stale
