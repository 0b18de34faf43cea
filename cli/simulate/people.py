"""Who is provisioned: a seeded directory of people, the same for the same seed on every machine."""

from __future__ import annotations

import hashlib
import random
import unicodedata
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a directory of real people holds: letters beyond ASCII, several scripts, apostrophes, spaces, hyphens.
_GIVEN = ("Ana", "Žofie", "Łukasz", "Élodie", "Siân", "José María", "Müge", "Ngọc", "Sørine", "Björk", "小春", "فاطمة")
_FAMILY = ("Nováková-Łęcka", "O'Malley", "Dvořák", "de la Cruz", "Ångström", "Nguyễn", "Şahin", "山田", "Quist", "حداد")
_ASCII_GIVEN = (
    "ana",
    "zofie",
    "lukasz",
    "elodie",
    "sian",
    "jose",
    "muge",
    "ngoc",
    "sorine",
    "bjork",
    "koharu",
    "fatima",
)
_ASCII_FAMILY = (
    "novakova",
    "o'malley",
    "dvorak",
    "delacruz",
    "angstrom",
    "nguyen",
    "sahin",
    "yamada",
    "quist",
    "haddad",
)
_EMOJI = ("🚀", "👩🏽\u200d🔬", "🏳️\u200d🌈")  # beyond the basic plane, skin tone, zero-width joiner
_TITLES = ("Buyer", "Engineer", "Head of Sales", "Účetní", "Chargé d'affaires")
_DEPARTMENTS = ("Procurement", "Legal", "Research & Development", "Výroba", "研究")
_CITIES = (
    ("Brno", "602 00"),
    ("Kraków", "30-001"),
    ("Århus", "8000"),
    ("São Paulo", "01000-000"),
    ("京都", "600-8001"),
)
_LANGUAGES = ("cs-CZ", "en-US", "pl-PL", "da-DK", "ja-JP")


@dataclass(frozen=True, slots=True)
class Person:
    """One user of the simulated tenant, as its directory holds them."""

    number: int
    object_id: str
    user_name: str
    nickname: str
    given_name: str
    family_name: str
    display_name: str
    mail: str | None
    other_mail: str
    active: bool
    guest: bool
    title: str
    department: str
    employee_number: str
    city: str
    postal_code: str
    mobile: str
    language: str


def run_id(seed: int) -> str:
    """Return the part of every name that belongs to one seed, so that runs of other seeds never collide."""
    return "r" + hashlib.sha256(f"usher simulate {seed}".encode()).hexdigest()[:10]


def people(seed: int, count: int) -> Iterator[Person]:
    """Yield the first ``count`` people of the directory of ``seed``.

    Args:
        seed: names the directory; the same seed gives the same people, and a larger count only adds to them.
        count: how many people.
    """
    run = run_id(seed)
    return (_person(seed, run, number) for number in range(count))


def _person(seed: int, run: str, number: int) -> Person:
    draw = random.Random(f"{seed}:{number}")  # noqa: S311 - repeatable people, not secrets
    pick = draw.randrange(len(_GIVEN))
    pick_family = draw.randrange(len(_FAMILY))
    given, family = _GIVEN[pick], _FAMILY[pick_family]
    # Traits go by moduli without common factors, so that every combination turns up in a large run.
    guest = number % 11 == 4
    if number % 19 == 5:
        given = f"{given} {draw.choice(_EMOJI)}"
    if number % 5 == 2:  # a client on macOS decomposes what it sends
        given, family = unicodedata.normalize("NFD", given), unicodedata.normalize("NFD", family)
    nickname = f"{_ASCII_GIVEN[pick]}.{_ASCII_FAMILY[pick_family]}.{number}"
    domain = f"{run}.example"
    mail: str | None = f"{nickname}@{domain}"
    if number % 17 == 8:
        mail = None
    elif number % 7 == 6:
        mail = f"{nickname}+{_ASCII_GIVEN[pick]}@{domain}"
    user_name = f"{nickname}@{domain}"
    if guest:
        user_name = f"{nickname}_partner.example#EXT#@{run}.onmicrosoft.example"
    elif number % 23 == 7:
        user_name = f"{unicodedata.normalize('NFD', 'žaneta')}.{number}@{domain}"
    city, postal_code = draw.choice(_CITIES)
    return Person(
        number=number,
        object_id=str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        user_name=user_name,
        nickname=f"{nickname}.{run}",
        given_name=given,
        family_name=family,
        display_name=f"{given} {family}",
        mail=mail,
        other_mail=f"{number}.private@{domain}",
        active=number % 13 != 6,
        guest=guest,
        title=draw.choice(_TITLES),
        department=draw.choice(_DEPARTMENTS),
        employee_number=f"{draw.randrange(10**6):06d}",
        city=city,
        postal_code=postal_code,
        mobile=f"{draw.randrange(10**9):09d}",
        language=draw.choice(_LANGUAGES),
    )
