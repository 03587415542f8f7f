"""Datasets that rotate their items when they are fetched, also by the workers of a real DataLoader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import InMemoryDataset
from torch_geometric.transforms import RandomRotate

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

from .augmentations import Names, RightForPyG, molecule, rotating, scipy_rotation, three_angles


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
