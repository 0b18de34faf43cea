from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.branding import contrast, read_branding


def test_black_on_white_has_the_contrast_that_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@given(st.from_regex(r"#[0-9a-f]{6}", fullmatch=True))
def test_a_button_is_readable_in_every_accent_color(color: str) -> None:
    branding = read_branding({"accent_color": color}, display_name="Acme")
    assert branding.accent_color == color
    assert contrast(branding.accent_color, branding.on_accent_color) >= 4.5


@pytest.mark.parametrize("color", ["red", "#fff", "#12345g", "#123456;}", "", None, 7])
def test_what_is_no_color_never_gets_into_a_stylesheet(color: object) -> None:
    branding = read_branding({"accent_color": color}, display_name="Acme")
    assert branding.accent_color == "#1f6feb"


def test_missing_values_have_defaults() -> None:
    branding = read_branding({"support_email": ""}, display_name="Acme")
    assert (branding.sender_name, branding.logo_url, branding.support_email) == ("Acme", None, None)


def test_a_logo_is_fetched_over_http_only() -> None:
    assert read_branding({"logo_url": "javascript:alert(1)"}, display_name="Acme").logo_url is None
    assert read_branding({"logo_url": "https://a.example/l.png"}, display_name="").logo_url == "https://a.example/l.png"
