"""Mistakes in the Django layer that both backends share: the door, visitors, facilities, handlers, the API."""

from typing import Final

from contract_tests.mutants.lives import ANA, BEN, EVERYONE, NOT_KEPT, ONE_OF_EACH, begin, publish, step
from contract_tests.mutants.mutant import Edit, Mutant

SHARED: Final = (
    # The door (contract 1)
    Mutant(
        "unknown-facility-forbidden",
        "django",
        "an unknown facility is answered with 403",
        ("legacy",),
        (Edit("shim.door:look", "Refusal(404,", "Refusal(_mutated(403),"),),
        (ONE_OF_EACH, step("knock_in_vain", who=ANA, place=0, what="facility", v1=False)),
    ),
    Mutant(
        "any-origin",
        "django",
        "any page may connect",
        ("channels",),
        (Edit("shim.door:_wrong_origin", "if origin is None:", "if _mutated():"),),
        (ONE_OF_EACH, step("knock_in_vain", who=ANA, place=0, what="origin", v1=False)),
    ),
    Mutant(
        "refusal-without-words",
        "django",
        "a facility's no is told without its reason",
        ("legacy",),
        (
            Edit(
                "shim.door:refusal_of",
                'str(error) or "the facility refused this connection"',
                '_mutated("") or "the facility refused this connection"',
            ),
        ),
        (ONE_OF_EACH, step("knock_in_vain", who=ANA, place=0, what="no", v1=False)),
    ),
    Mutant(
        "everybody-in-every-group",
        "django",
        "a user gets the messages of all groups",
        ("channels",),
        (
            Edit(
                "shim.visitor:identity_of",
                "user.groups.order_by",
                '_mutated(__import__("django.contrib.auth.models", fromlist=["Group"])).Group.objects.order_by',
            ),
        ),
    ),
    Mutant(
        "session-is-user",
        "django",
        "who is not signed in listens to a user named like the session",
        ("legacy",),
        (
            Edit(
                "shim.visitor:Identity.user_name",
                "if self.user.is_authenticated else None",
                "if self.user.is_authenticated else _mutated(self.session_key)",
            ),
        ),
    ),
    Mutant(
        "narrowing-ignored",
        "django",
        "?subscribe-user and its like change nothing",
        ("channels",),
        (Edit("shim.facility:topics_of", "if not wanted or", "if _mutated() or"),),
    ),
    # Handlers (contract 6)
    Mutant(
        "no-is-a-failure",
        "django",
        "a handler that says no counts as one that failed",
        ("legacy",),
        (
            Edit(
                "shim.handlers:settled",
                "if isinstance(error, (PermissionDenied, PublishingClosed)):",
                "if _mutated(False):",
            ),
        ),
        (ONE_OF_EACH, step("handler_ends_it", pick=0, what="deny", code=1000)),
    ),
    Mutant(
        "failure-is-taken",
        "django",
        "a handler's error is logged, and the connection goes on",
        ("channels",),
        (Edit("shim.handlers:settled", "    return core.failed()", "    return _mutated(core.handled(id) or [])"),),
        (ONE_OF_EACH, step("handler_ends_it", pick=0, what="raise", code=1000)),
    ),
    # Publishing (contract 3.4, 4)
    Mutant(
        "async-history-ignored",
        "django",
        "an awaited publish forgets the history that it was told",
        ("legacy",),
        (
            Edit(
                "shim.api:Realtime.apublish",
                "ready = _ready(facility, audience, message, history, sender)",
                "ready = _ready(facility, audience, message, _mutated(None), sender)",
            ),
        ),
        (ONE_OF_EACH, publish(kept=NOT_KEPT, how="async")),
    ),
    Mutant(
        "on-commit-at-once",
        "django",
        "a publish does not wait for the commit",
        ("channels",),
        (
            Edit(
                "shim.api:Realtime.publish",
                "if on_commit and transaction.get_connection().in_atomic_block:",
                "if _mutated(False):",
            ),
        ),
        (ONE_OF_EACH, step("publish_on_commit", to=EVERYONE, value="x", commits=False)),
    ),
    Mutant(
        "many-checked-one-by-one",
        "django",
        "of several messages the good ones are sent before a bad one is found",
        ("legacy",),
        (
            Edit(
                "shim.api:Realtime.publish_many",
                "ready = _many_ready(messages, history, sender)",
                "return [_mutated(self).publish(*each, history=history, on_commit=on_commit) for each in messages]",
            ),
        ),
        (ONE_OF_EACH, step("publish_nonsense", to=EVERYONE, refused=("MessageTooLarge", "x" * 1_048_577))),
    ),
    # Signing out (contract 7.5)
    Mutant(
        "sign-out-not-told",
        "django",
        "signing out ends no connection",
        ("channels",),
        (Edit("shim.apps:_signed_out", "if user is None:", "if _mutated():"),),
        (begin((ANA, True)), step("throw_out", who=ANA, how="sign out")),
    ),
    Mutant(
        "sign-out-by-prefix",
        "django",
        "signing out ends those too whose names begin alike",
        ("legacy",),
        (
            Edit(
                "shim.core.node:_matcher",
                "connection.user == user",
                '_mutated((connection.user or "").startswith(user))',
            ),
        ),
        (begin((ANA, True), (BEN, True), names=("a", "ab", "c")), step("throw_out", who=ANA, how="disconnect")),
    ),
)
