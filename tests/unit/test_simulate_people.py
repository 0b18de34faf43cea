from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cli.simulate.people import people, run_id


@given(seed=st.integers(), count=st.integers(0, 40), more=st.integers(0, 40))
def test_a_seed_names_its_people_and_a_larger_count_only_adds(seed: int, count: int, more: int) -> None:
    assert list(people(seed, count + more))[:count] == list(people(seed, count))


def test_nobody_shares_a_name_that_must_be_unique() -> None:
    everyone = [*people(1, 3000), *people(2, 3000)]
    keys = [unicodedata.normalize("NFC", person.user_name).casefold() for person in everyone]
    assert len(set(keys)) == len(everyone)
    mails = [person.mail for person in everyone if person.mail]
    assert len(set(mails)) == len(mails)
    assert len({person.object_id for person in everyone}) == len(everyone)
    assert len({person.nickname for person in everyone}) == len(everyone)


def test_seeds_have_run_ids_of_their_own() -> None:
    assert len({run_id(seed) for seed in range(1000)}) == 1000


def test_a_hundred_people_have_every_trait() -> None:
    everyone = list(people(7, 100))
    names = [person.display_name for person in everyone]
    assert any(person.guest and "#EXT#" in person.user_name for person in everyone)
    assert any(not person.active for person in everyone)
    assert any(person.mail is None for person in everyone)
    assert any(person.mail and "+" in person.mail for person in everyone)
    assert any("'" in person.user_name for person in everyone)
    assert any(not person.user_name.isascii() for person in everyone)
    assert any(name != unicodedata.normalize("NFC", name) for name in names)
    assert any(ord(character) > 0xFFFF for name in names for character in name)
