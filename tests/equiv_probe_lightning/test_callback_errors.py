"""A run that was attached to from outside goes on whatever happens; one that asked for the callback hears at once."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import LinearModule, heard, loader, trainer
from .test_callback import Several


class Without(LinearModule):
    """Its network sees no coordinates."""

    def __init__(self) -> None:
        super().__init__(lr=1e-2)
        self.net = nn.Linear(2, 2).double()  # type: ignore[assignment]

    def loss(self, batch: Any) -> Tensor:
        return self.net(batch[0].flatten(1)[:, :2] + 0.01 * torch.randn(len(batch[0]), 2)).square().mean()


class Unnamed(LinearModule):
    """Its network answers with something that could rotate in several ways."""

    def __init__(self) -> None:
        super().__init__(lr=1e-2)
        inner = self.net

        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, pos: Tensor) -> dict[str, Tensor]:
                forces = self.inner(pos)["forces"]
                return {"forces": forces, "what": forces[:, :3, :] + 0.0}

        self.net = Odd()  # type: ignore[assignment]

    def loss(self, batch: Any) -> Tensor:
        found = self.net(batch[0] + 0.01 * torch.randn_like(batch[0]))
        return (found["forces"] - batch[1]).square().mean() + found["what"].square().mean()


class Strange(LinearModule):
    """Its own objects go to the network, and refuse to be looked at."""

    def __init__(self) -> None:
        super().__init__(lr=1e-2)
        inner = self.net

        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, pos: Tensor, extra: Any) -> dict[str, Tensor]:
                return dict(self.inner(pos))

        self.net = Odd()  # type: ignore[assignment]

    def loss(self, batch: Any) -> Tensor:
        return (self.net(batch[0], extra=Unlookable())["forces"] - batch[1]).square().mean()


class Unlookable(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("not for you")

    keys = values = __iter__ = items


CASES: dict[str, tuple[type[LinearModule], dict[str, Any]]] = {
    "no coordinates": (Without, {}),
    "several networks": (Several, {}),
    "a name that is not there": (LinearModule, {"network": "model"}),
    "a schema that does not fit": (LinearModule, {"schema": {"inputs": {"pos": "voigt"}}}),
    "unnamed outputs": (Unnamed, {}),
    "strange inputs": (Strange, {}),
}


def trained(kind: type[LinearModule], path: Path, callbacks: list[Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = kind()
    module.lr = 1e-2
    trainer(path, callbacks, max_epochs=2).fit(module, loader(), loader(count=16))
    return {**module.state_dict(), "random state": torch.get_rng_state()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_did_not_ask_goes_on_bit_for_bit(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, options = CASES[case]
    plain = trained(kind, tmp_path, [])
    callback = EquivarianceCallback(every=1, full=1, on_error="warn", verbose=False, **options)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        probed = trained(kind, tmp_path, [callback])
    for name, value in plain.items():
        assert torch.equal(value, probed[name]), name
    ours = [str(one.message) for one in heard if "equiv_probe" in str(one.message)]
    assert len(ours) == 1, ours
    monkeypatch.setenv("EQUIV_PROBE", "1")
    (added,) = (one for one in trainer(tmp_path, []).callbacks if hasattr(one, "from_environment"))
    assert added.settings.on_error == "warn"


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_asked_hears_at_its_first_step(case: str, tmp_path: Path) -> None:
    kind, options = CASES[case]
    steps: list[int] = []

    class Counting(kind):  # type: ignore[misc, valid-type]
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            steps.append(batch_idx)

    with pytest.raises((ep.EquivProbeError, RuntimeError)):
        trained(Counting, tmp_path, [EquivarianceCallback(every=1, verbose=False, **options)])
    assert steps == [0]


def test_what_fails_later_is_listed_and_ends_nothing(tmp_path: Path) -> None:
    """The first measurement of a run that left its first steps alone; the end says it, whoever filters warnings."""
    callback = EquivarianceCallback(every=1, warmup=3, verbose=False)
    with heard() as lines, pytest.warns(UserWarning, match="equiv_probe could not measure, and carries on"):
        trained(Unnamed, tmp_path, [callback])
    assert callback.probe is not None
    assert len(callback.probe.failures) == 2, "once in training and once in validation, and not again and again"
    assert any("equiv_probe measured nothing: UndeclaredError: found outputs['what']" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["1", ""])
def test_the_variable_says_who_reads_it_where_nobody_does(asked: str, tmp_path: Path) -> None:
    """As torch finds it when the package is installed: a loop of one's own, with workers that say nothing."""
    stated = tmp_path / "stated-0.dist-info"
    stated.mkdir()
    (stated / "METADATA").write_text("Metadata-Version: 2.1\nName: stated\nVersion: 0\n")
    (stated / "entry_points.txt").write_text(
        "[torch.backends]\nstated = equiv_probe_lightning.environment:at_import_of_torch\n"
    )
    code = """
import torch
from torch.utils.data import DataLoader
net = torch.nn.Linear(3, 3)
for x in DataLoader(torch.zeros(4, 3), num_workers=1): net(x).sum().backward()
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EQUIV_PROBE": asked, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    lines = [line for line in done.stderr.splitlines() if "equiv_probe" in line]
    assert len(lines) == (1 if asked else 0)
    assert all("equiv-probe run" in line for line in lines)
    declared = (Path(ep.__file__).parents[1] / "pyproject.toml").read_text()
    assert "equiv_probe_lightning.environment:at_import_of_torch" in declared
