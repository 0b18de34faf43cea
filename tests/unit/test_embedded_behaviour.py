from __future__ import annotations

import pytest

from cli.embedded.behaviour import Behaviour, Conduct
from models.errors import UsageError


def test_the_usual_behaviour_interferes_nowhere() -> None:
    conduct = Conduct(Behaviour.parse({"reply": None}))

    assert [conduct.take(stage, ["a@x.test"]) for stage in ("mail", "rcpt", "data", "stored")] == [None] * 4
    assert conduct.shown == 0


def test_a_reply_is_shown_at_its_stage_to_its_recipient_as_often_as_asked() -> None:
    wanted = Behaviour.parse({"reply": "550 no such user", "at": "rcpt", "to": "Ana@", "times": 2})
    conduct = Conduct(wanted)

    assert conduct.take("data", ["ana@x.test"]) is None
    assert conduct.take("rcpt", ["bob@x.test"]) is None
    assert conduct.take("rcpt", ["bob@x.test", "ana@x.test"]) is wanted
    assert conduct.take("rcpt", ["ana@x.test"]) is wanted
    assert conduct.take("rcpt", ["ana@x.test"]) is None
    assert conduct.shown == 2

    conduct.change(Behaviour.parse({}))
    assert conduct.shown == 0
    assert conduct.take("rcpt", ["ana@x.test"]) is None


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"answer": "550"},
        {"reply": "no"},
        {"reply": "999 strange"},
        {"reply": "550 a\r\n250 b"},
        {"reply": 550},
        {"at": "helo"},
        {"times": 0},
        {"times": True},
        {"drop": "yes"},
        {"delay_seconds": -1},
        {"delay_seconds": float("nan")},
        {"to": 1},
    ],
)
def test_a_behaviour_that_makes_no_sense_is_refused(document: object) -> None:
    with pytest.raises(UsageError):
        Behaviour.parse(document)
