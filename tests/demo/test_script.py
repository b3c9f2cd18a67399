"""What a run of the demo does, and when."""

from collections import Counter

import pytest

from demo.script import Fault, Flip, Kill, Restart, Turn, script


def test_a_calm_run_goes_up_and_comes_back() -> None:
    assert [(cue.at, cue.act) for cue in script(60, faults=False)] == [
        (9.0, Turn(25)),
        (24.0, Turn(100)),
        (45.0, Turn(0)),
    ]


def test_a_minute_of_faults() -> None:
    acts = Counter(type(cue.act) if isinstance(cue.act, Turn) else cue.act for cue in script(60, faults=True))
    assert acts == {
        Turn: 20,
        Kill("legacy"): 3,
        Kill("channels"): 3,
        Restart("stop"): 1,
        Restart("kill"): 1,
    }


@pytest.mark.parametrize("duration", [15, 16, 17.5, 18, 29, 45, 60, 61, 90, 119, 240, 600])
def test_faults_of_any_length(duration: float) -> None:
    cues = script(duration, faults=True)
    assert [cue.at for cue in cues] == sorted(cue.at for cue in cues)
    assert 0 < cues[0].at < cues[-1].at < duration
    turns = [cue.act.percent for cue in cues if isinstance(cue.act, Turn)]
    assert len(turns) == max(5, round(duration / 3))
    assert turns[-1] == 0
    assert all(one != two for one, two in zip([0, *turns], turns, strict=False))  # each turn moves somebody
    percent = 0
    struck = []
    for cue in cues:
        if isinstance(cue.act, Turn):
            percent = cue.act.percent
        else:
            struck.append(cue.act)
            assert 20 <= percent <= 80  # either backend has people to hurt
    kills = max(1, int(duration / 20))
    assert [struck.count(Kill(name)) for name in ("legacy", "channels")] == [kills, kills]
    assert len(struck) - 2 * kills == max(1, int(duration / 30))


def test_moments_are_told_from_the_act_on() -> None:
    flip = Flip(0, 100, 10.0)
    assert (flip.moved, flip.first_ms, flip.last_ms) == (0, None, None)
    flip.landings["v1"] += [10.5, 12.0]
    flip.landings["raw"] += [11.0]
    assert (flip.moved, flip.first_ms, flip.last_ms) == (3, 500, 2_000)
    fault = Fault(Restart("kill"), 10.0)
    assert (fault.away_ms, fault.first_ms, fault.last_ms) == (None, None, None)
    fault.until, fault.returns = 11.0, [10.25, 14.0]
    assert (fault.away_ms, fault.first_ms, fault.last_ms) == (1_000, 250, 4_000)
    assert fault.name == "Redis killed and restarted"
