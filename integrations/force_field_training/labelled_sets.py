"""The three sets as padded tensors: a part to train on, a part that is held out, and noise on the labels if wanted."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from force_field import FOLDER, PADDING, Labelled, generator, load
from torch import Tensor

Data = Literal["gfn2", "ethanol", "3bpa"]
GENERATED = FOLDER / "data"
KEPT = Path(__file__).parent / "runs"
FILES = {"ethanol": "ethanol_rmd17/train.xyz", "3bpa": "3bpa/train_mixedT.xyz"}
SPLIT_SEED = 6
SHUFFLE, TRAIN_NOISE, HELD_NOISE = 10, 11, 12  # streams of random numbers, beside those of `labelled` and `train`


class Sets(NamedTuple):
    """What is trained on, what is not, and as many of the former as of the latter."""

    train: Labelled
    held: Labelled
    seen: Labelled


def take(data: Labelled, rows: Tensor) -> Labelled:
    """Some of the structures, without the padding they do not need."""
    longest = int((data.species[rows] != PADDING).sum(1).max())
    return Labelled(
        data.positions[rows, :longest], data.species[rows, :longest], data.energies[rows], data.forces[rows, :longest]
    )


def noisy(data: Labelled, sigma: float, seed: int, stream: int) -> Labelled:
    """Add Gaussian noise of standard deviation ``sigma``, in eV/Å, to every component of every force."""
    if sigma == 0:
        return data
    noise = sigma * torch.randn(data.forces.shape, generator=generator(seed, stream, 0))
    return data._replace(forces=data.forces + noise * (data.species != PADDING)[..., None])


def kept(path: Path) -> Labelled:
    """A set from its file, which takes ten seconds; its tensors are kept with the runs until the file changes."""
    stamp, copy = path.stat().st_mtime_ns, KEPT / f"{path.stem}.pt"
    if copy.exists():
        stored = torch.load(copy, weights_only=True)
        if stored["stamp"] == stamp:
            return Labelled(*stored["tensors"])
    data = load(path)
    KEPT.mkdir(exist_ok=True)
    partial = copy.with_suffix(f".{os.getpid()}")
    torch.save({"stamp": stamp, "tensors": list(data)}, partial)
    partial.replace(copy)
    return data


@functools.cache
def read(name: Data) -> tuple[Labelled, Labelled]:
    """The whole training part and the whole held-out part.

    Raises:
        FileNotFoundError: with the line that makes the file, or says where it should be.
    """
    if name == "gfn2":
        path = GENERATED / "train.extxyz"
        if not path.exists():
            raise FileNotFoundError("python integrations/force_field/make_data.py  # two minutes, makes train.extxyz")
        return kept(path), load(GENERATED / "molecules.extxyz")
    path = Path(os.environ.get("EQUIV_PROBE_DATA", ".")) / FILES[name]
    if not path.exists():
        raise FileNotFoundError(f"{FILES[name]} is not below $EQUIV_PROBE_DATA; see the README for where it comes from")
    data = load(path)
    order = torch.randperm(len(data.energies), generator=generator(SPLIT_SEED, SHUFFLE, 0))
    return take(data, order[100:]), take(data, order[:100])


def sets(name: Data, fraction: float = 1.0, held_out: int = 60, noise: float = 0.0, seed: int = 0) -> Sets:
    """The parts of one set.

    Args:
        name: which.
        fraction: of the training part, chosen at random; smaller ones are contained in larger ones.
        held_out: structures that are measured, at most.
        noise: standard deviation of what is added to the forces of all parts, in units of their rms component.
        seed: of the choice and of the noise.
    """
    train, held = read(name)
    order = torch.randperm(len(train.energies), generator=generator(SPLIT_SEED, SHUFFLE, 1))
    train = take(train, order[: max(1, round(fraction * len(order)))])
    held = take(held, torch.arange(min(held_out, len(held.energies))))
    sigma = noise * rms(train)
    train, held = noisy(train, sigma, seed, TRAIN_NOISE), noisy(held, sigma, seed, HELD_NOISE)
    return Sets(train, held, take(train, torch.arange(min(len(held.energies), len(train.energies)))))


def rms(data: Labelled) -> float:
    """Root mean square of the force components, eV/Å."""
    return data.forces[data.species != PADDING].square().mean().sqrt().item()
