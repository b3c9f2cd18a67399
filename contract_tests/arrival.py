"""Coming in: a handshake, `hello` and `ready`, and what is owed to the new connection (contract 1, 2, 5.2, 5.3)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from contract_tests.client import Client, Seen
from contract_tests.driver import PATIENCE
from contract_tests.life import Kept, Life
from contract_tests.link import Ending, Link, Topic
from contract_tests.model import Broken, Item, Said, came
from contract_tests.model import Kept as Remembered
from contract_tests.people import Person
from contract_tests.wire import TEXT, Head

NARROW: Final = {
    "everyone": "e",
    "broadcast": "e",
    "user": "u",
    "group": "g",
    "session": "s",
}
"""Words of `?subscribe-…`, and the kind of audience that each leaves in (contract 1.3)."""

type Resume = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Race:
    """What is published while a connection comes in: `before` its handshake is answered, and right `after`."""

    before: Sequence[tuple[Topic, Any, Kept]] = ()
    after: Sequence[tuple[Topic, Any, Kept]] = ()


@dataclass(slots=True)
class _Arriving:
    """The topics of a connection as they stood when it knocked."""

    since: float
    last: dict[Topic, list[Remembered | None]] = field(default_factory=dict)
    seq: dict[Topic, int] = field(default_factory=dict)


def topics_for(person: Person, facility: str, narrow: Sequence[str], listen: Sequence[tuple[str, str]]) -> list[Topic]:
    """What a connection listens to (contract 1.2, 1.3): what it may, narrowed by what it asks for."""
    if listen:
        topics = [Topic(facility, kind, "" if kind == "e" else name) for kind, name in listen]
    else:
        topics = [Topic(facility, "e")]
        if person.name is not None:
            topics.append(Topic(facility, "u", person.name))
        topics += [Topic(facility, "g", group) for group in person.groups]
        if person.session is not None:
            topics.append(Topic(facility, "s", person.session))
    wanted = {NARROW[word] for word in narrow}
    return [topic for topic in topics if not wanted or topic.kind in wanted]


def arrive(
    life: Life,
    person: Person,
    place: str,
    *,
    v1: bool,
    facility: str,
    narrow: Sequence[str] = (),
    listen: Sequence[tuple[str, str]] = (),
    resume: Resume | None = None,
    was: str | None = None,
    race: Race = Race(),
    receive_buffer: int | None = None,
    more: Mapping[str, str] | None = None,
) -> Link:
    """Open a connection, and say what it must get.

    Args:
        narrow: what it asks for of what it may have. listen: what the facility lets it have instead of the usual.
        resume: positions. was: the id of the connection that it says it continues.
        race: what is published meanwhile. receive_buffer: see `Driver.knock`. more: what else it says in the query.

    Raises:
        Broken: it was not let in, was told something wrong, or did not get what it must.
    """
    topics = topics_for(person, facility, narrow, listen)
    note = f"{life.name}-{len(life.links)}"
    query = {"note": note, **(more or {}), **{f"subscribe-{word}": "" for word in narrow}}
    if listen:
        query["listen"] = json.dumps(listen)
    known = _Arriving(life.driver.now())
    for topic in topics:
        known.last[topic] = life.log(topic).last(known.since, known.since)
        known.seq[topic] = life.log(topic).seq
    client, behind, raced = _knock(life, person, place, facility, query, v1, race, receive_buffer)
    id = life.driver.notes.read(note, "audiences")[-1]["id"]
    link = Link(
        len(life.links),
        client,
        place,
        person,
        facility,
        note,
        query,
        id=id,
        own=frozenset({id, was or id}),
        echo=life.echoes(facility) or "echo" in query,
        topics={topic.label: topic for topic in topics},
    )
    link.unseen.extend(behind)
    if person.is_on_channels(life.flag) is not (place == "channels"):
        link.ending = Ending.by(1012, "1.4", must=False, early=True)
    try:
        if v1:
            hello = {"op": "hello", "resume": dict(resume or {}), **({} if was is None else {"was": was})}
            client.say(TEXT, json.dumps(hello).encode())
            for topic, value, kept in race.after:
                raced.setdefault(topic, []).extend(_publish(life, topic, value, kept))
            ready = _ready(life, link)
            for topic in topics:
                _owe_v1(life, link, topic, ready, known, raced.get(topic, []), resume or {})
        else:
            for topic in topics:
                _owe_raw(life, link, topic, known, raced.get(topic, []), eager=bool(race.after))
    finally:
        life.links.append(link)
    if not v1 and race.after:  # in one go: the server may be reading the past just now
        life.publish([(topic, value) for topic, value, _ in race.after], kept=race.after[0][2], how="many")
    elif race.after:  # nothing heals what is lost of this
        life.publish([(race.after[0][0], "at once")], kept=(0, 300.0))
    life.settle()
    if raced or race.after or not link.allowed.is_certain:
        life.fence([link])
        link.allowed.settle()
    life.hold("1.2", "1.3", "2.1", "5.2" if not v1 else "5.3")
    return link


def _knock(
    life: Life,
    person: Person,
    place: str,
    facility: str,
    query: Mapping[str, str],
    v1: bool,
    race: Race,
    receive_buffer: int | None,
) -> tuple[Client, list[Seen], dict[Topic, list["_Raced"]]]:
    """The handshake, again where a process that was hurt refuses for a moment (503)."""
    path = f"/ws/{quote(facility, safe='')}?{urlencode(query)}"
    deadline = life.driver.now() + PATIENCE
    raced: dict[Topic, list[_Raced]] = {}
    while True:
        client = _opened(life, place, deadline, path, person, v1, receive_buffer)
        if client is None:
            continue
        for topic, value, kept in race.before if not raced else ():
            raced.setdefault(topic, []).extend(_publish(life, topic, value, kept))
        try:
            head, behind = client.open(PATIENCE)
        except OSError:
            if not life.shaken or life.driver.now() > deadline:
                raise
            continue
        if head.status == 101:
            return client, behind, raced
        if head.status != 503 or not life.shaken or life.driver.now() > deadline:
            raise Broken("1.1", f"{person.name!r} was refused: {head}", place)
        _check_503(head, place)


def _opened(
    life: Life, place: str, deadline: float, path: str, person: Person, v1: bool, receive_buffer: int | None
) -> Client | None:
    try:
        return life.driver.knock(place, path, v1=v1, headers=person.cookie, receive_buffer=receive_buffer)
    except OSError:
        if not life.shaken or life.driver.now() > deadline:
            raise
        return None


def _check_503(head: Head, place: str) -> None:
    if not head.headers.get("retry-after", "").isdigit() or not head.body:
        raise Broken("1.1", f"a 503 has Retry-After and a reason: {head}", place)


@dataclass(frozen=True, slots=True)
class _Raced:
    """A message that was published while a connection came in."""

    seq: int | None
    said: Said


def _publish(life: Life, topic: Topic, value: Any, kept: Kept) -> list[_Raced]:
    seq = life.log(topic).seq
    life.publish([(topic, value)], kept=kept)
    now = life.log(topic).seq
    return [_Raced(now if now != seq else None, Said.of(value))]


def _owe_raw(life: Life, link: Link, topic: Topic, known: _Arriving, raced: list[_Raced], *, eager: bool) -> None:
    """The last unexpired message, once, then what comes (contract 5.2); with a race the moment of the read is open."""
    log, label = life.log(topic), topic.label
    now = log.last(known.since, life.driver.now())
    found = [*known.last[topic], *(each for each in now if each not in known.last[topic])] if raced else now
    choices: list[list[Item]] = []
    for read_at in range(len(raced) + 1):
        with_history = [each for each in raced[:read_at] if each.seq is not None]
        live = [
            Item("msg", label, "2.1", each.said, log, log.era, each.seq, maybe=each.seq is None)
            for each in raced[read_at:]
        ]
        if with_history:
            last = with_history[-1]
            choices.append([Item("msg", label, "5.2", last.said, log, log.era, last.seq), *live])
            continue
        for kept in found:
            retained = [] if kept is None else [Item("msg", label, "5.2", kept.said, log, log.era, kept.seq)]
            choices.append([*retained, *live])
        if eager:
            choices.append(live)
    link.allowed.choose(label, choices)


def _ready(life: Life, link: Link) -> Mapping[str, Any]:
    """The first frame is `ready` (contract 2.1), and says what it must."""
    seen = _first(life, link)
    if seen.op != "ready" or seen.fields is None:
        raise Broken("2.1", f"{link} got {seen} before ready", link.place)
    ready = seen.fields
    if ready["connection"] != link.id:
        raise Broken("6.5", f"{link} was told that it is {ready['connection']!r}, and is {link.id!r}", link.place)
    if ready["backend"] != link.place or set(ready["topics"]) != set(link.topics):
        raise Broken("1.3", f"{link} was told {ready['backend']}, {sorted(ready['topics'])}", link.place)
    if told := ready["recovered"].keys() - link.topics.keys():
        raise Broken("3.3", f"{link} was told of {sorted(told)}, which it does not listen to", link.place)
    return ready


def _first(life: Life, link: Link) -> Seen:
    deadline = life.driver.now() + PATIENCE
    while not link.unseen:
        if life.driver.now() > deadline:
            raise Broken("2.1", f"{link} got no ready within {PATIENCE:g} s", link.place)
        link.client.wait()
        link.unseen.extend(link.read())
    return link.unseen.popleft()


def _owe_v1(
    life: Life,
    link: Link,
    topic: Topic,
    ready: Mapping[str, Any],
    known: _Arriving,
    raced: list[_Raced],
    resume: Resume,
) -> None:
    """What was missed, all or nothing, then everything after the position that `ready` told (contract 5.3)."""
    log, label = life.log(topic), topic.label
    epoch, seq = ready["topics"][label]
    if not log.is_epoch(log.era, epoch) or not known.seq[topic] <= seq <= log.seq:
        raise Broken(
            "3.2", f"{link} was told that {label!r} stands at {[epoch, seq]}; it stands at {log.seq}", link.place
        )
    link.positions[label] = (epoch, seq)
    items: list[Item] = []
    if label in resume:
        link.positions.pop(label)
        items = _recovered(life, link, topic, ready, seq, known, resume[label])
    elif label in ready["recovered"]:
        raise Broken("5.3", f"{link} asked for nothing of {label!r}, and was told of it: {ready}", link.place)
    items += [
        Item("msg", label, "2.1", each.said, log, log.era, each.seq, maybe=each.seq is None)
        for each in raced
        if each.seq is None or each.seq > seq
    ]
    link.allowed.expect(*items)


def _recovered(
    life: Life, link: Link, topic: Topic, ready: Mapping[str, Any], seq: int, known: _Arriving, position: Any
) -> list[Item]:
    log, label = life.log(topic), topic.label
    told = ready["recovered"].get(label)
    epoch, after = position
    missed, whole = log.after(epoch, after, known.since, life.driver.now())
    if not isinstance(told, bool) or (whole is not None and told is not whole and log.seq == known.seq[topic]):
        raise Broken(
            "5.3", f"{link} resumed {label!r} after {position}: recovered is {told!r}, not {whole}", link.place
        )
    if not told:
        link.positions[label] = (ready["topics"][label][0], seq)
        return []
    link.positions[label] = (epoch, after)
    items: list[Item] = []
    for each in missed:
        if each.seq <= seq:
            items += came(log, label, "5.3", each, v1=True, hidden=link.hides(each.origin))
    return items
