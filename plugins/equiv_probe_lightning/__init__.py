"""The probe for Lightning: ``Trainer(callbacks=[EquivarianceCallback()])``.

Lightning comes as ``lightning`` and as ``pytorch_lightning``, each with a ``Callback`` of its own. The class is one for
the package that is imported already, or else for those that are installed.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv_probe_lightning.callback_pytorch_lightning import EquivarianceCallback

__all__ = ["EquivarianceCallback"]


def __getattr__(name: str) -> Any:
    if name == "configured":  # as the module was called
        return importlib.import_module(f"{__name__}.configuration")
    if name != "EquivarianceCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    both = ("lightning", "pytorch_lightning")
    found = [each for each in both if (f"{each}.pytorch" if each == "lightning" else each) in sys.modules]
    found = found or [each for each in both if find_spec(each) is not None]
    if not found:
        raise ModuleNotFoundError("the callback needs Lightning: pip install 'equiv-probe[lightning]'")
    made = f"callback_{found[0]}" if len(found) == 1 else "callback_both"
    return importlib.import_module(f"{__name__}.{made}").EquivarianceCallback
