from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.generator import BytesGenerator
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.branding import read_branding
from models.errors import PermanentJobError
from models.invitations import Letter, hash_token, link_token
from models.settings import load_settings
from worker.handlers.invitation import compose, mailbox

if TYPE_CHECKING:
    from email.message import EmailMessage

ID = UUID("01930000-0000-7000-8000-000000000001")
KEY = "a-secret-key-of-thirty-two-letters"
SETTINGS = load_settings(
    database_url="postgresql://h/d",
    redis_url="redis://h",
    secret_key=KEY,
    public_url="https://usher.example.com",
    mail_from="no-reply@usher.example.com",
)
HEADERS = {
    "Message-ID", "Date", "From", "To", "Subject", "Auto-Submitted", "X-Auto-Response-Suppress", "MIME-Version",
    "Content-Type",
}  # fmt: skip
ATTACKS = st.sampled_from(
    ["\r\nBcc: x@evil.example", "\nX: y", "\r", "\x00", "\x85", "\u2028", "\x1c", "=?utf-8?q?=0D=0ABcc:_x=40evil?="]
)
TEXTS = st.one_of(st.text(max_size=40), st.tuples(st.text(max_size=10), ATTACKS).map("".join))


def _letter(**changes: Any) -> Letter:
    branding = read_branding(changes.pop("branding", {}), display_name=changes.get("tenant_name", "Acme"))
    values: dict[str, Any] = {
        "invitation_id": ID,
        "message_id": f"<{ID}.1@usher.example.com>",
        "email": "ana@example.com",
        "person": "Ana",
        "tenant_name": "Acme",
        "branding": branding,
        "sign_in_url": "https://app.example.com/login",
        "token": link_token(KEY, ID),
    }
    return Letter(**{**values, **changes})


def _on_the_wire(message: EmailMessage) -> EmailMessage:
    """Read the message again as a server gets it; written as aiosmtplib does for an address in ASCII."""
    wire = BytesIO()
    BytesGenerator(wire, policy=policy.SMTP).flatten(message)
    return message_from_bytes(wire.getvalue(), policy=policy.default)


def _text(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    text: str = part.get_content()
    return text


def test_the_link_is_the_same_at_every_attempt_and_another_for_each_invitation_and_key() -> None:
    token = link_token(KEY, ID)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert token == link_token(KEY, UUID(str(ID)))
    assert len({token, link_token(KEY, UUID(int=1)), link_token(KEY[::-1], ID)}) == 3


def test_only_a_hash_of_the_token_is_kept() -> None:
    token = link_token(KEY, ID)
    assert len(hash_token(token)) == 32
    assert token.encode() not in hash_token(token)
    assert token not in repr(_letter())


def test_a_message_has_what_a_mail_reader_needs() -> None:
    message = _on_the_wire(compose(_letter(branding={"sender_name": "Acme People"}), SETTINGS))
    assert set(message.keys()) == HEADERS
    assert message["Message-ID"] == f"<{ID}.1@usher.example.com>"
    assert message["From"] == "Acme People <no-reply@usher.example.com>"
    assert message["To"] == "ana@example.com"
    assert message["Subject"] == "Your invitation to Acme"
    assert message["Auto-Submitted"] == "auto-generated"
    link = f"https://usher.example.com/invitations/{link_token(KEY, ID)}"
    for kind in ("plain", "html"):
        text = _text(message, kind)
        assert link in text
        assert "Hello Ana," in text
        assert "7 days" in text
        assert "https://app.example.com/login" in text


def test_branding_shows_in_the_message() -> None:
    branding = {"accent_color": "#ffee00", "logo_url": "https://a.example/l.png", "support_email": "help@a.example"}
    message = _on_the_wire(compose(_letter(branding=branding), SETTINGS))
    assert message["Reply-To"] == "help@a.example"
    html = _text(message, "html")
    assert "background-color: #ffee00; color: #000000" in html
    assert 'src="https://a.example/l.png"' in html
    assert 'href="mailto:help@a.example"' in html
    assert "help@a.example" in _text(message, "plain")


def test_a_message_needs_no_name_no_sign_in_page_and_no_branding() -> None:
    message = _on_the_wire(compose(_letter(person="", sign_in_url=None), SETTINGS))
    for kind in ("plain", "html"):
        assert "Hello," in _text(message, kind)
        assert "sign in" not in _text(message, kind)


def test_markup_in_names_is_only_text_in_html() -> None:
    message = _on_the_wire(compose(_letter(person="<img src=x>", tenant_name='A&B "<script>"'), SETTINGS))
    html = _text(message, "html")
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html
    assert "A&amp;B" in html
    assert message["Subject"] == 'Your invitation to A&B "<script>"'


def test_a_persons_name_cannot_break_out_of_its_line_or_fill_the_page() -> None:
    plain = _text(_on_the_wire(compose(_letter(person="Ana\r\n\r\nPay here:\t" + "x" * 500), SETTINGS)), "plain")
    assert plain.startswith("Hello Ana Pay here: xxx")
    assert len(plain.splitlines()[0]) < 120


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("ana@example.com", "ana@example.com"),
        (" ana@corp.local\t", "ana@corp.local"),
        ("ana@localhost", "ana@localhost"),
        ("o'neil+tag=1@x-y.example", "o'neil+tag=1@x-y.example"),
        ("jörg@bücher.example", "jörg@xn--bcher-kva.example"),
        ("guest_gmail.com#EXT#@tenant.onmicrosoft.com", "guest_gmail.com#EXT#@tenant.onmicrosoft.com"),
        ("Ana@EXAMPLE.com", "Ana@example.com"),
    ],
)
def test_addresses_as_people_have_them(address: str, read: str) -> None:
    assert mailbox("it", address).addr_spec == read


@pytest.mark.parametrize(
    "address",
    [
        "", "ana", "ana@", "@example.com", "a@b@c", "a b@example.com", "ana@exa mple.com", "ana@example..com",
        "ana@.example.com", "ana@example.com.", "ana@-x.example", "<ana@example.com>", "Ana <ana@example.com>",
        "a@example.com,b@example.com", "a@example.com;b@example.com", "ana(x)@example.com", '"a b"@example.com',
        "ana@[127.0.0.1]", "ana@example.com\r\nRCPT TO:<x@evil.example>", "ana@example.com> SIZE=1", "ana\x00@x.org",
        "ana@example.com\u2028x", "=?utf-8?q?ana?=@example.com", "x" * 65 + "@example.com", "ana@" + "x" * 64 + ".org",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_for_good(address: str) -> None:
    with pytest.raises(PermanentJobError) as caught:
        mailbox("The user's address", address)
    assert caught.value.code == "smtp_message"
    assert "ana" not in caught.value.detail


@pytest.mark.parametrize("control", ["\r", "\n", "\r\n", "\x00", "\x0b", "\x1c", "\x85", "\u2028", "\ud800"])
@pytest.mark.parametrize("field", ["tenant_name", "sender_name", "support_email", "email"])
def test_a_header_with_a_control_character_is_refused_for_good(field: str, control: str) -> None:
    value = f"ana{control}Bcc: x@evil.example"
    letter_with_it = (
        _letter(**{field: value}) if field in ("tenant_name", "email") else _letter(branding={field: value})
    )
    with pytest.raises(PermanentJobError) as caught:
        compose(letter_with_it, SETTINGS)
    assert caught.value.code == "smtp_message"


@given(tenant_name=TEXTS, sender_name=TEXTS, person=TEXTS)
@example(tenant_name="=?utf-8?q?=0D=0ABcc:_x=40evil.example?=", sender_name="A", person="B")
@example(tenant_name="A", sender_name="a\r\nBcc: x@evil.example", person="B")
@example(tenant_name="A" * 40, sender_name='"\\,;:<>()[]@', person="B")
def test_no_text_of_anybodys_makes_a_header(tenant_name: str, sender_name: str, person: str) -> None:
    try:
        message = compose(
            _letter(tenant_name=tenant_name, branding={"sender_name": sender_name}, person=person), SETTINGS
        )
    except PermanentJobError as error:
        assert error.code == "smtp_message"  # noqa: PT017  any other outcome must be a sound message
        return
    read = _on_the_wire(message)
    assert sorted(read.keys()) == sorted(HEADERS)
    assert [address.addr_spec for address in read["To"].addresses] == ["ana@example.com"]
    assert [address.addr_spec for address in read["From"].addresses] == ["no-reply@usher.example.com"]
    assert "\n" not in read["Subject"]


@given(st.one_of(st.text(max_size=30), st.emails(), st.tuples(st.emails(), ATTACKS).map("".join)))
def test_an_address_is_refused_or_reaches_the_envelope_and_the_header_alike(email: str) -> None:
    try:
        message = compose(_letter(email=email), SETTINGS)
    except PermanentJobError as error:
        assert error.code == "smtp_message"  # noqa: PT017  any other outcome must be a sound message
        return
    envelope = message["To"].addresses[0].addr_spec
    assert not set(envelope) & set("\r\n<> ,;")
    read = _on_the_wire(message)
    assert sorted(read.keys()) == sorted(HEADERS)
    if envelope.isascii():
        assert [address.addr_spec for address in read["To"].addresses] == [envelope]
