"""How the mail catcher answers when it is told to fail, so that tests can see what becomes of a message then."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

STAGES = ("mail", "rcpt", "data", "stored")
_REPLY = re.compile(r"[245][0-9]{2}( [^\r\n]{0,400})?")


@dataclass(frozen=True)
class Behaviour:
    """What happens at one stage of the SMTP dialogue instead of the usual answer.

    ``mail``, ``rcpt`` and ``data`` come before the message is kept, ``stored`` after: there the sender learns nothing
    of a message that arrived.
    """

    at: str = "data"
    reply: str | None = None
    """The SMTP reply, such as ``550 no such user``; none means the usual one."""
    drop: bool = False
    """Cut the connection instead of replying."""
    delay_seconds: float = 0.0
    """How long to wait before the reply."""
    to: str | None = None
    """Only when an address at hand contains this text."""
    times: int | None = None
    """How often; none means until told otherwise."""

    @classmethod
    def parse(cls, document: object) -> Behaviour:
        """Read a behaviour from JSON. ``{}`` or ``{"reply": null}`` is the usual behaviour.

        Raises:
            UsageError: a field is unknown or wrong.
        """
        if not isinstance(document, dict):
            raise UsageError("a behaviour is a JSON object")
        unknown = set(document) - {field.name for field in fields(cls)}
        if unknown:
            raise UsageError(f"unknown: {', '.join(sorted(map(str, unknown)))}")
        values: dict[str, Any] = document
        behaviour = cls(**values)
        for name, good in behaviour._checks().items():
            if not good:
                raise UsageError(f"{name} has no usable value")
        return behaviour

    def _checks(self) -> dict[str, bool]:
        delay, times = self.delay_seconds, self.times
        return {
            "at": self.at in STAGES,
            "reply": self.reply is None or (isinstance(self.reply, str) and bool(_REPLY.fullmatch(self.reply))),
            "drop": isinstance(self.drop, bool),
            "delay_seconds": isinstance(delay, int | float) and math.isfinite(delay) and 0 <= delay <= 600,
            "to": self.to is None or isinstance(self.to, str),
            "times": times is None or (isinstance(times, int) and not isinstance(times, bool) and times > 0),
        }


class Conduct:
    """The behaviour in force, and how often it has still to be shown."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.shown = 0

    def change(self, behaviour: Behaviour) -> None:
        """Behave like this from now on."""
        self.behaviour = behaviour
        self.shown = 0

    def take(self, stage: str, addresses: Sequence[str]) -> Behaviour | None:
        """Return the behaviour if it is to be shown now, counting it; else None."""
        wanted = self.behaviour
        idle = wanted.reply is None and not wanted.drop and not wanted.delay_seconds
        if idle or wanted.at != stage or (wanted.times is not None and self.shown >= wanted.times):
            return None
        if wanted.to is not None and not any(wanted.to.casefold() in address.casefold() for address in addresses):
            return None
        self.shown += 1
        return wanted
