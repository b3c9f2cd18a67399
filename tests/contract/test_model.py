from contract_tests.model import Said, TopicLog, Unheard, healed


def test_what_the_subscription_brings_again_may_fill_what_the_history_has_lost() -> None:
    # contract 7.4: 4 to 8 are published while a server is deaf, 7 with a history of one message. The subscription is
    # back just before 5, and the history is read after 7: so 5 comes, and 4 does not.
    published = [Unheard(seq, Said("text", str(seq)), 7 if seq >= 7 else 1) for seq in range(4, 9)]
    choices = healed(
        TopicLog(seq=8), "group:a", published, base=3, v1=False, new_era=False, hides=lambda origin: origin == ""
    )
    assert sorted(next(item.seq for item in items) or 0 for items in choices) == [4, 5, 6, 7]
