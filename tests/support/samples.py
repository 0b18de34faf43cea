"""Documents of the RFCs and of Entra, by the name of their file in ``tests/samples``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent / "samples"


def sample(name: str) -> Any:
    """Return a fresh copy of a sample, for example ``entra-wire-4-create``."""
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
