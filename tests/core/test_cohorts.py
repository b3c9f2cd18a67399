import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.core.cohorts import (
    BUCKETS,
    MAX_LISTED,
    UNVERSIONED,
    FlagState,
    Snapshot,
    Subject,
    Version,
    bucket,
    cohort,
)
from shim.core.errors import WireError

FLAG = "realtime_channels"

names = st.text(min_size=1, max_size=20)
keys = st.frozensets(st.text(min_size=1, max_size=8), max_size=5)
percents = st.integers(0, BUCKETS)
snapshots = st.builds(
    Snapshot,
    name=names,
    exists=st.booleans(),
    everyone=st.none() | st.booleans(),
    percent=percents,
    superusers=st.booleans(),
    staff=st.booleans(),
    authenticated=st.booleans(),
    users=keys,
    groups=keys,
    version=st.tuples(st.text(max_size=8), st.integers(0, 2**53)),
)
ids = st.none() | st.text(max_size=8)
subjects = st.builds(
    Subject,
    user=ids,
    session=ids,
    anonymous=ids,
    staff=st.booleans(),
    superuser=st.booleans(),
    groups=keys,
)


def flag(**fields: Any) -> Snapshot:
    return Snapshot(FLAG, exists=True, **fields)


class TestRules:
    def test_no_such_flag_is_legacy(self) -> None:
        everything = flag(everyone=True, percent=BUCKETS, authenticated=True)
        assert cohort(replace(everything, exists=False), Subject(user="1")) == "legacy"

    @given(snapshots, subjects)
    def test_everyone_decides_before_all_else(self, snapshot: Snapshot, subject: Subject) -> None:  # contract 8.1
        assert cohort(replace(snapshot, everyone=False), subject) == "legacy"
        assert cohort(replace(snapshot, exists=True, everyone=True), subject) == "channels"

    @pytest.mark.parametrize(
        ("snapshot", "subject"),
        [
            (flag(superusers=True), Subject(user="1", superuser=True)),
            (flag(staff=True), Subject(user="1", staff=True)),
            (flag(authenticated=True), Subject(user="1")),
            (flag(users=frozenset({"1", "2"})), Subject(user="1")),
            (flag(groups=frozenset({"7"})), Subject(user="1", groups=frozenset({"7", "8"}))),
        ],
    )
    def test_each_rule_chooses_those_it_names_and_no_others(self, snapshot: Snapshot, subject: Subject) -> None:
        assert cohort(snapshot, subject) == "channels"
        assert cohort(snapshot, replace(subject, user=None, session="s")) == "legacy"
        assert cohort(flag(), subject) == "legacy"
        if not snapshot.authenticated:
            assert cohort(snapshot, Subject(user="3")) == "legacy"

    @given(snapshots)
    def test_nobody_at_all_is_legacy_at_any_percentage(self, snapshot: Snapshot) -> None:
        assert cohort(replace(snapshot, everyone=None), Subject()) == "legacy"

    @given(subjects, subjects, percents)
    def test_the_user_stands_before_the_session_and_the_session_before_the_cookie(
        self, one: Subject, other: Subject, percent: int
    ) -> None:
        half = flag(percent=percent)
        if one.user:
            assert cohort(half, one) == cohort(half, replace(other, user=one.user))
        elif one.session:
            assert cohort(half, one) == cohort(half, replace(other, user=None, session=one.session))

    def test_a_user_a_session_and_a_cookie_of_the_same_text_are_three_subjects(self) -> None:
        found = {Subject("x").key, Subject(session="x").key, Subject(anonymous="x").key}
        assert len({bucket(FLAG, str(key)) for key in found}) == 3

    def test_a_session_key_is_not_shown(self) -> None:
        assert "secret" not in repr(Subject(session="secret"))


class TestBuckets:
    @given(subjects, percents, percents)
    def test_raising_only_adds_and_lowering_only_removes(self, subject: Subject, one: int, other: int) -> None:
        low, high = sorted((one, other))  # contract 8.1
        if cohort(flag(percent=low), subject) == "channels":
            assert cohort(flag(percent=high), subject) == "channels"

    @given(names)
    def test_the_edge_is_exact(self, user: str) -> None:
        place = bucket(FLAG, f"user:{user}")
        assert cohort(flag(percent=place), Subject(user)) == "legacy"
        assert cohort(flag(percent=place + 1), Subject(user)) == "channels"

    def test_lowering_removes_the_last_added(self) -> None:
        everybody = [Subject(user=str(n)) for n in range(5000)]

        def chosen(percent: int) -> set[str | None]:
            lot = flag(percent=percent)
            return {subject.user for subject in everybody if cohort(lot, subject) == "channels"}

        at_10, at_25, back_at_10 = chosen(10_000), chosen(25_000), chosen(10_000)
        assert at_10 == back_at_10
        assert at_10 < at_25
        assert chosen(0) == set()
        assert len(chosen(BUCKETS)) == len(everybody)

    @pytest.mark.parametrize("form", ["{}", "user-{:08d}", "7f3c9a52-0000-4000-8000-{:012x}"])
    def test_the_share_is_within_1_percent_of_the_asked_over_100_000_users(self, form: str) -> None:
        places = sorted(bucket(FLAG, f"user:{form.format(n)}") for n in range(100_000))
        for percent in (100, 1_000, 12_500, 25_000, 50_000, 99_900):
            share = sum(place < percent for place in places) / len(places)
            assert abs(share - percent / BUCKETS) < 0.01

    def test_two_flags_cut_the_people_differently(self) -> None:
        both = sum(bucket("one", f"user:{n}") < 50_000 and bucket("other", f"user:{n}") < 50_000 for n in range(10_000))
        assert 2_300 < both < 2_700

    def test_the_same_in_every_process(self) -> None:  # contract 8.1
        program = (
            "from shim.core.cohorts import bucket\n"
            "print([bucket('realtime_channels', f'user:{n}') for n in range(200)])"
        )
        found = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout.strip()
            for seed in ("1", "4242")
        }
        assert found == {str([bucket(FLAG, f"user:{n}") for n in range(200)])}

    def test_never_changes(self) -> None:
        # An upgrade that changed these would move everybody at once.
        places = [bucket(FLAG, key) for key in ("user:1", "session:a", "anonymous:é")]
        assert places == [4771, 76292, 11259]

    @given(names, st.text())
    def test_every_text_has_a_bucket(self, name: str, key: str) -> None:
        assert 0 <= bucket(name, key) < BUCKETS
        assert 0 <= bucket(name, key + "\ud800") < BUCKETS


class TestSnapshot:
    @given(snapshots)
    def test_comes_back_from_json(self, snapshot: Snapshot) -> None:
        carried = json.dumps(snapshot.to_json())
        assert Snapshot.from_json(carried) == snapshot
        assert Snapshot.from_json(carried.encode()) == snapshot
        assert Snapshot.from_json(json.loads(carried)) == snapshot

    @given(snapshots, snapshots)
    def test_the_digest_stands_for_the_contents_without_the_version(self, one: Snapshot, other: Snapshot) -> None:
        same = replace(one, version=UNVERSIONED) == replace(other, version=UNVERSIONED)
        assert (one.digest == other.digest) is same
        assert replace(one, version=("x", 1)).digest == one.digest

    def test_a_key_that_a_later_version_adds_is_passed_over(self) -> None:
        assert Snapshot.from_json({**flag().to_json(), "weather": "fine"}) == flag()

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 2},
            {"percent": -1},
            {"percent": BUCKETS + 1},
            {"percent": True},
            {"percent": "5"},
            {"exists": 1},
            {"everyone": "no"},
            {"users": "ana"},
            {"users": [1]},
            {"groups": None},
            {"version": ["e"]},
            {"version": [1, "e"]},
            {"name": None},
        ],
    )
    def test_what_is_not_a_snapshot_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(WireError, match="not a flag snapshot"):
            Snapshot.from_json({**flag().to_json(), **change})

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "{}", b"\xff", "[" * 100_000])
    def test_what_is_not_even_json_is_refused(self, text: str | bytes) -> None:
        with pytest.raises(WireError, match="not a flag snapshot"):
            Snapshot.from_json(text)

    def test_lists_are_bounded(self) -> None:
        longest = frozenset(str(n) for n in range(10_000_000, 10_000_000 + MAX_LISTED))
        assert len(json.dumps(flag(users=longest).to_json())) < 128 * 1024
        for what in ("users", "groups"):
            with pytest.raises(ValueError, match=r"lists 10001 .* list a group"):
                flag(**{what: longest | {"x"}})


class TestEverybodys:
    @given(
        exists=st.booleans(),
        everyone=st.sampled_from([None, True, False]),
        percent=st.sampled_from([0, 1, BUCKETS]),
        lists=st.lists(st.sampled_from(["superusers", "staff", "authenticated", "users", "groups"])),
        asked=st.builds(
            Subject,
            user=st.sampled_from([None, "1", "2"]),
            session=st.sampled_from([None, "s"]),
            staff=st.booleans(),
            superuser=st.booleans(),
        ),
    )
    def test_is_what_anybody_gets(
        self, exists: bool, everyone: bool | None, percent: int, lists: list[str], asked: Subject
    ) -> None:
        listed: dict[str, Any] = {name: name in lists for name in ("superusers", "staff", "authenticated")}
        listed |= {name: frozenset({"1"} if name in lists else ()) for name in ("users", "groups")}
        snapshot = Snapshot("f", exists=exists, everyone=everyone, percent=percent, **listed)
        if snapshot.everybodys is None:
            assert exists
            assert everyone is None
            assert percent or lists
        else:
            assert cohort(snapshot, asked) == snapshot.everybodys


class TestState:
    def test_unknown_until_the_flag_store_is_reached(self) -> None:  # contract 8.2
        state = FlagState(FLAG)
        assert (state.current, state.version, state.cohort(Subject(user="1"))) == (None, None, None)
        assert state.polled(flag(everyone=True), state.version)
        assert state.version == UNVERSIONED
        assert state.cohort(Subject(user="1")) == "channels"

    def test_force_stands_above_all(self) -> None:  # contract 8.6
        state = FlagState(FLAG, force="legacy")
        assert state.cohort(Subject()) == "legacy"
        assert state.pushed(flag(everyone=True, version=("e", 1)))
        assert state.cohort(Subject(user="1")) == "legacy"

    def test_an_older_push_is_passed_over(self) -> None:
        state = FlagState(FLAG)
        assert state.pushed(flag(percent=2, version=("e", 2)))
        assert not state.pushed(flag(percent=1, version=("e", 1)))
        assert not state.pushed(flag(percent=3, version=("e", 2)))
        assert state.current == flag(percent=2, version=("e", 2))

    def test_a_push_of_another_epoch_is_taken(self) -> None:
        state = FlagState(FLAG)
        state.pushed(flag(percent=2, version=("e", 9)))
        assert state.pushed(flag(percent=1, version=("f", 1)))
        assert state.version == ("f", 1)

    def test_a_push_about_another_flag_is_passed_over(self) -> None:
        state = FlagState(FLAG)
        assert not state.pushed(Snapshot("another", exists=True, everyone=True, version=("e", 1)))
        assert state.current is None

    def test_a_push_without_news_counts_but_changes_nothing(self) -> None:
        state = FlagState(FLAG)
        assert state.pushed(flag(percent=1, version=("e", 1)))
        assert not state.pushed(flag(percent=1, version=("e", 2)))
        assert state.version == ("e", 2)

    def test_a_slow_poll_does_not_bring_an_old_value_back(self) -> None:
        state = FlagState(FLAG)
        state.pushed(flag(percent=1, version=("e", 1)))
        started = state.version
        read = flag(percent=1)
        state.pushed(flag(percent=2, version=("e", 2)))
        assert not state.polled(read, started)
        assert state.current == flag(percent=2, version=("e", 2))

    def test_a_poll_finds_what_was_not_pushed_and_the_next_push_still_counts(self) -> None:
        state = FlagState(FLAG)
        state.pushed(flag(percent=1, version=("e", 1)))
        assert state.polled(flag(percent=5), state.version)
        assert state.current == flag(percent=5, version=("e", 1))
        assert not state.polled(flag(percent=5), state.version)
        assert state.pushed(flag(percent=6, version=("e", 2)))

    @settings(max_examples=300)
    @given(st.data())
    def test_any_interleaving_of_pushes_and_polls_ends_at_the_newest(self, data: st.DataObject) -> None:
        # The database takes values 1, 2, 3, …; each is pushed: numbered after its commit, read after that, sent
        # at any later time. Polls begin and end at any time. Redis may lose its counter. All arrives in the end.
        database = 0
        epoch, number = 0, 0
        numbered: list[Version] = []
        read: list[Snapshot] = []
        polls: list[tuple[Version | None, Snapshot]] = []
        state = FlagState(FLAG)

        def send(snapshot: Snapshot) -> None:
            if snapshot.version[0] == str(epoch):  # the publish script's own test
                state.pushed(snapshot)

        for _ in range(data.draw(st.integers(1, 30))):
            match data.draw(st.sampled_from("cnrspqe")):
                case "c" if database < 50:
                    database += 1
                    number += 1
                    numbered.append((str(epoch), number))
                case "r" if numbered:
                    version = numbered.pop(data.draw(st.integers(0, len(numbered) - 1)))
                    read.append(flag(percent=database, version=version))
                case "s" if read:
                    send(read.pop(data.draw(st.integers(0, len(read) - 1))))
                case "p":
                    polls.append((state.version, flag(percent=database)))
                case "q" if polls:
                    started, snapshot = polls.pop(data.draw(st.integers(0, len(polls) - 1)))
                    state.polled(snapshot, started)
                case "e":
                    epoch, number = epoch + 1, 0
                    database += 1  # whoever finds its epoch gone numbers and reads again
                    number += 1
                    numbered.append((str(epoch), number))
                case _:
                    continue

        pushed = bool(number)
        read += [flag(percent=database, version=version) for version in numbered]
        for snapshot in data.draw(st.permutations(read)):
            send(snapshot)
        for started, snapshot in data.draw(st.permutations(polls)):
            state.polled(snapshot, started)
        if pushed:
            assert state.current is not None
            assert state.current.percent == database
        state.polled(flag(percent=database), state.version)
        assert state.current is not None
        assert state.current.percent == database
