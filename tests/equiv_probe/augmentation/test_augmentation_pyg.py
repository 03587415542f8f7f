"""Augmentations of PyG's data: real transforms, batches, and copies of coordinates in other tensors."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose, RandomJitter, RandomRotate, RandomScale

import equiv_probe as ep
from equiv_probe.augmentation.sample_layout import generic_sample

from .augmentations import RightForPyG, molecule, scipy_rotation


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


@pytest.mark.slow
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
