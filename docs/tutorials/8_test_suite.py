"""
In your test suite
==================

One line of a test says whether a model is equivariant, to what rounding explains in its precision. If it is not, the
failure says where, by how much, and why, as far as that is cheap to find out.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

folder = Path(mkdtemp())
(folder / "test_model.py").write_text(
    """
import pytest
import torch

import equiv_probe as ep
from equiv_probe.testing import assert_equivariant

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
BATCH = {"pos": torch.randn(6, 3, generator=torch.Generator().manual_seed(0))}


def springs(inputs):
    return {"forces": -(inputs["pos"] - inputs["pos"].mean(0))}


def other_axes(inputs):  # reads its axes as y, z, x
    return {"forces": springs(inputs)["forces"][:, [1, 2, 0]]}


def test_rotation():
    assert_equivariant(springs, BATCH, SCHEMA)


@pytest.mark.equivariant(group="O(3)")
def test_reflection_too(equivariance):  # the fixture collects what it measured
    equivariance(springs, BATCH, SCHEMA)


def test_other_axes(equivariance):
    equivariance(other_axes, BATCH, SCHEMA)
"""
)

# %%
# The fixture ``equivariance`` comes with the package; its measurements are a table at the end of the session, and a
# page with ``--equivariance-report=page.html``. Two tests pass, one fails:

command = [sys.executable, "-m", "pytest", "--tb=line", "-q", "-p", "no:cacheprovider", "--color=no", str(folder)]
done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
print(done.stdout.replace(str(folder), "."))

# %%
# The last line of the failure names the cause: the forces rotate as they should if their axes are read in another
# order. What else can be asserted, and for which groups: :doc:`/how-to/assert-in-tests`. Limits for releases and
# comparison with the last one: :doc:`/how-to/guard-releases`.
