"""How a tenant looks in the mails and pages that its people get to see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_ACCENT = "#1f6feb"
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True)
class Branding:
    """A tenant's branding values, each usable as it is or absent."""

    accent_color: str
    """Background of buttons, `#rrggbb`."""
    on_accent_color: str
    """Text on that background: black or white, whichever contrasts more (always 4.5:1 or better)."""
    logo_url: str | None
    sender_name: str
    support_email: str | None


def read_branding(values: dict[str, Any], *, display_name: str) -> Branding:
    """Read a tenant's `branding`; what is missing or malformed gets a default.

    Args:
        values: any of `models.tenants.BRANDING`.
        display_name: sends the mails when no `sender_name` is given.
    """
    accent = str(values.get("accent_color") or "")
    if not _COLOR.fullmatch(accent):
        accent = _ACCENT
    logo = str(values.get("logo_url") or "")
    return Branding(
        accent_color=accent,
        on_accent_color=_readable_on(accent),
        logo_url=logo if logo.startswith(("https://", "http://")) else None,
        sender_name=str(values.get("sender_name") or display_name),
        support_email=str(values["support_email"]) if values.get("support_email") else None,
    )


def _luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.2, "relative luminance")."""
    linear = []
    for start in (1, 3, 5):
        share = int(color[start : start + 2], 16) / 255
        linear.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours `#rrggbb`, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _readable_on(color: str) -> str:
    return max("#ffffff", "#000000", key=lambda text: contrast(color, text))
