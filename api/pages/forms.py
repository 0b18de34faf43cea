"""Reading the fields of a form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import UsageError

if TYPE_CHECKING:
    from aiohttp import web

_LONGEST = 2000  # characters


async def fields(request: web.Request, *names: str) -> tuple[str, ...]:
    """Return the texts of a form's fields by name; a field that is missing is empty.

    Raises:
        UsageError: a field is too long, or holds what cannot be stored.
    """
    form = await request.post()
    texts = []
    for name in names:
        value = form.get(name, "")
        text = value if isinstance(value, str) else ""
        if len(text) > _LONGEST or "\x00" in text or text != text.encode(errors="replace").decode():
            raise UsageError(f"The field {name} is too long or holds a character that cannot be stored.")
        texts.append(text)
    return tuple(texts)
