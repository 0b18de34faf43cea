from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cli.embedded.account import Account, can_reach, give, reachable_copy, reachable_folder, unprivileged_account
from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = Account(uid=54_321, gid=54_321)


def test_only_root_needs_another_account() -> None:
    account = unprivileged_account()

    assert (account is not None) == (os.geteuid() == 0)
    assert account is None or account.uid != 0


def test_a_folder_is_within_reach_when_each_one_above_it_can_be_passed(data_dir: Path) -> None:
    closed = data_dir / "home"
    closed.mkdir()
    closed.chmod(0o700)
    owner = Account(os.getuid(), os.getgid())

    assert can_reach(STRANGER, data_dir / "postgres")
    assert not can_reach(STRANGER, closed / "postgres")
    assert can_reach(owner, closed / "postgres")

    closed.chmod(0o710)
    assert not can_reach(STRANGER, closed / "postgres")
    assert can_reach(Account(STRANGER.uid, closed.stat().st_gid), closed / "postgres")

    closed.chmod(0o701)
    assert can_reach(STRANGER, closed / "postgres")


def test_data_out_of_reach_goes_to_the_same_other_place_each_time(data_dir: Path) -> None:
    closed, state = data_dir / "home", data_dir / "state"
    (closed / "other").mkdir(parents=True)
    closed.chmod(0o700)

    folder = reachable_folder(STRANGER, closed / "postgres", state)

    assert folder.is_relative_to(state)
    assert can_reach(STRANGER, folder)
    assert reachable_folder(STRANGER, closed / "postgres", state) == folder
    assert reachable_folder(STRANGER, closed / "other" / "postgres", state) != folder
    assert reachable_folder(STRANGER, data_dir / "postgres", state) == data_dir / "postgres"


def test_no_place_within_reach_is_an_error_that_says_what_to_do(data_dir: Path) -> None:
    closed = data_dir / "home"
    closed.mkdir(mode=0o700)

    with pytest.raises(UsageError, match="--data-dir"):
        reachable_folder(STRANGER, closed / "postgres", closed / "state")


def test_programs_out_of_reach_are_copied_once(data_dir: Path) -> None:
    closed, cache = data_dir / "home", data_dir / "cache"
    program = closed / "package" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (closed / "package.libs").mkdir()
    names = ("package", "package.libs", "not-there")

    assert reachable_copy(STRANGER, closed, names, cache) == closed

    closed.chmod(0o700)
    copy = reachable_copy(STRANGER, closed, names, cache)

    assert copy.is_relative_to(cache)
    assert can_reach(STRANGER, copy / "package" / "bin" / "postgres")
    assert os.access(copy / "package" / "bin" / "postgres", os.X_OK)
    assert sorted(path.name for path in copy.iterdir()) == ["package", "package.libs"]
    assert list(cache.iterdir()) == [copy]
    assert reachable_copy(STRANGER, closed, names, cache) == copy


def test_giving_a_folder_gives_what_is_in_it_but_not_where_links_lead(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = data_dir / "data", data_dir / "outside"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "1").touch()
    outside.touch()
    (folder / "link").symlink_to(outside)
    given: list[tuple[Path, bool]] = []

    def chown(path: Path, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:  # only root may do it for real
        assert (uid, gid) == (STRANGER.uid, STRANGER.gid)
        given.append((path, follow_symlinks))

    monkeypatch.setattr(os, "chown", chown)
    give(STRANGER, folder)

    assert {path for path, _ in given} == {folder, *folder.rglob("*")}
    assert given[-1] == (folder, True)
    assert not any(follows for _, follows in given[:-1])
