"""The pages' style sheet, scripts and vendored libraries, under addresses that change with their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parents[1] / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript"}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    digest: str


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])


_FILES = {
    path.relative_to(FOLDER).as_posix(): _read(path) for path in sorted(FOLDER.rglob("*")) if path.suffix in _TYPES
}


def static_url(name: str) -> str:
    """Return the address of a file below `api/static`.

    Raises:
        KeyError: there is no such file.
    """
    return f"/static/{_FILES[name].digest}/{name}"


async def _serve(request: web.Request) -> web.Response:
    file = _FILES.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    # A page of an older or newer process may ask for its own version: it gets ours, but does not keep it.
    same = request.match_info["digest"] == file.digest
    return web.Response(
        body=file.content,
        content_type=file.content_type,
        charset="utf-8",
        headers={"Cache-Control": "public, max-age=31536000, immutable" if same else "no-store"},
    )


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get("/static/{digest}/{name:.+}", _serve)]
