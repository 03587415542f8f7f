"""The code of chemiscope's 3D viewer, which a page with structures carries."""

from __future__ import annotations

import base64
import gzip
import importlib.util
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

MISSING = "pip install 'equiv-probe[report]' adds a 3D view of them to this page."


@dataclass(frozen=True)
class Code:
    """chemiscope's JavaScript.

    Attributes:
        text: as it runs.
        version: of chemiscope.
        licence: to be passed on with it.
    """

    text: str
    version: str
    licence: str

    @cached_property
    def packed(self) -> str:
        """Gzip in base64: a third of the size, and nothing in it can end a script element."""
        return base64.b64encode(gzip.compress(self.text.encode(), mtime=0)).decode()


@cache
def code() -> Code | None:
    """Chemiscope's code from the installed package, which is not imported; None if it is not there."""
    found = importlib.util.find_spec("chemiscope")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "sphinx" / "static" / "chemiscope.min.js"
    if not path.exists():
        return None
    about = metadata.distribution("chemiscope")
    licence = next((file.read_text() for file in about.files or [] if file.name.upper().startswith("LICENSE")), "")
    return Code(path.read_text(encoding="utf-8"), about.version, licence)
