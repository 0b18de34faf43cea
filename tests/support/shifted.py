"""`usher` with a clock of its own: `python -m tests.support.shifted SECONDS worker` is two hours ahead with 7200.

SIGUSR1 has the clock jump to the other side. The monotonic clock goes on, as it does when a machine's clock is set.
"""

from __future__ import annotations

import datetime as dt
import signal
import sys
import time
from typing import Any

_REAL = time.time
_DATETIME = dt.datetime


class _Clock:
    """How far the clock is off."""

    seconds = 0.0


def _time() -> float:
    return _REAL() + _Clock.seconds


class _Alike(type):
    """Has every real moment be an instance of the class that stands in for its own."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _DATETIME)


class _Shifted(_DATETIME, metaclass=_Alike):
    """`datetime` by the clock that is off."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """Return the moment by that clock."""
        return _DATETIME.fromtimestamp(_time(), tz)


def main() -> None:
    """Run the command line by a clock that is off."""
    _Clock.seconds = float(sys.argv.pop(1))
    time.time = _time
    signal.signal(signal.SIGUSR1, lambda *_: setattr(_Clock, "seconds", -_Clock.seconds))
    # Only now, so that whoever takes `time` by name gets the clock that is off.
    import api.main  # noqa: F401
    import worker.main
    from cli.main import main as usher

    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] in ("api", "arq", "models", "worker")
        if ours and getattr(module, "datetime", None) is _DATETIME:
            vars(module)["datetime"] = _Shifted
    assert worker.main is not None
    usher()


if __name__ == "__main__":
    main()
