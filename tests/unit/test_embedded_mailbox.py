from __future__ import annotations

from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest

from cli.embedded.mailbox import Mailbox

if TYPE_CHECKING:
    from pathlib import Path


def message(subject: str = "Welcome") -> bytes:
    content = EmailMessage()
    content["From"] = "invitations@usher.test"
    content["To"] = "Änne <anne@x.test>"
    content["Subject"] = subject
    content["Message-ID"] = "<1@usher.test>"
    content.set_content("Grüße")
    content.add_alternative("<p>Grüße</p>", subtype="html")
    content.add_attachment(b"12345", maintype="image", subtype="png", filename="logo.png")
    return content.as_bytes()


def test_messages_are_listed_newest_first_and_found_by_text(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    for number in range(5):
        mailbox.add(message(f"Invitation {number}"), "s@x.test", [f"User{number}@x.test"])

    total, window = mailbox.newest(1, 2)
    assert (total, [found.subject for found in window]) == (5, ["Invitation 3", "Invitation 2"])

    total, window = mailbox.newest(text="user4@")
    assert (total, [found.recipients for found in window]) == (1, [("User4@x.test",)])
    assert mailbox.newest(text="invitation 0")[0] == 1
    assert mailbox.newest(text="nobody") == (0, [])


def test_messages_outlive_a_restart_and_ids_are_not_given_twice(tmp_path: Path) -> None:
    first, content = Mailbox(tmp_path), message()
    kept = [first.add(content, "s@x.test", ["a@x.test"]), first.add(message("Second"), "s@x.test", ["b@x.test"])]

    second = Mailbox(tmp_path)

    assert second.newest()[1] == kept[::-1]
    assert second.raw(kept[0].id) == content
    assert second.add(message(), "s@x.test", ["c@x.test"]).id not in {found.id for found in kept}

    second.clear()
    assert second.newest() == (0, [])
    assert second.raw(kept[0].id) is None
    assert second.add(message(), "s@x.test", ["d@x.test"]).id not in {found.id for found in kept}


def test_an_index_cut_off_by_a_crash_is_mended(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    kept = mailbox.add(message(), "s@x.test", ["a@x.test"])
    lost = mailbox.add(message(), "s@x.test", ["b@x.test"])
    index = tmp_path / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-20])

    after = Mailbox(tmp_path)
    added = after.add(message(), "s@x.test", ["c@x.test"])
    total, found = after.newest()

    assert total == 3
    assert [found[0], found[2]] == [added, kept]
    assert (found[1].id, found[1].subject) == (lost.id, lost.subject)
    assert found[1].recipients == ("anne@x.test",)  # of the headers, as the envelope is lost
    assert Mailbox(tmp_path).newest() == (total, found)


def test_a_message_opens_into_headers_text_html_and_other_parts(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    kept = mailbox.add(message("Grüße 😀"), "s@x.test", ["anne@x.test"])

    opened = mailbox.open(kept.id)

    assert kept.subject == "Grüße 😀"
    assert kept.message_id == "<1@usher.test>"
    assert opened is not None
    assert ("To", "Änne <anne@x.test>") in opened.headers
    assert opened.text == "Grüße\n"
    assert opened.html == "<p>Grüße</p>\n"
    assert opened.attachments == (("logo.png", "image/png", 5),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n\r\n",
        b"Subject: =?nonsense?q?x?=\r\n\r\nbody",
        b"Subject: =?utf-8?b?####?=\r\n\r\nbody",
        b"Subject: \xff\xfe\r\nContent-Type: text/plain; charset=klingon\r\n\r\n\xff",
        b"Content-Type: multipart/mixed\r\n\r\nno boundary",
        b"Content-Transfer-Encoding: base64\r\nContent-Type: text/html\r\n\r\n!!!!",
        b"not a header at all\r\n",
    ],
)
def test_what_is_not_well_formed_is_kept_and_shown_all_the_same(tmp_path: Path, content: bytes) -> None:
    mailbox = Mailbox(tmp_path)

    kept = mailbox.add(content, "s@x.test", ["a@x.test"])

    assert mailbox.raw(kept.id) == content
    assert mailbox.open(kept.id) is not None
    assert Mailbox(tmp_path).newest() == (1, [kept])


def test_nothing_but_a_message_can_be_read(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    mailbox.add(message(), "s@x.test", ["a@x.test"])

    assert mailbox.raw("../index") is None
    assert mailbox.raw("00000099") is None
    assert mailbox.open("../index") is None
