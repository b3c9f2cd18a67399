"""URLs of Redis: what is taken, what is shown, what is said about errors."""

import pytest
from redis import exceptions as redis_errors

from shim.bus.asyncio import AsyncBus, AsyncSubscription
from shim.bus.endpoint import Endpoint, client_name, refusal
from shim.bus.sync import SyncBus, SyncSubscription
from shim.core.errors import RealtimeUnavailable


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost:6380/2", "redis://localhost:6380/2"),
        ("redis://:s3cret@host:1/", "redis://host:1/0"),
        ("redis://ana:s3c%40ret@host:1/1", "redis://host:1/1"),
        ("redis://host?password=s3cret&db=4", "redis://host:6379/4"),
        ("rediss://host:1/0?ssl_cert_reqs=none", "rediss://host:1/0"),
        ("redis://[::1]:5/2", "redis://[::1]:5/2"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://:s3cret@/run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    endpoint = Endpoint.of(url)
    assert endpoint.shown == shown
    assert "s3c" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://:s3cret@host/mymaster", "Sentinel"),
        ("redis+cluster://host", "not supported"),
        ("http://s3cret@host", "not supported"),
        ("s3cret", "not supported"),
        ("", "not supported"),
        ("redis:host", "not supported"),
        ("redis://:s3/cret@host:1/0", "percent-encoded"),
        ("redis://:s3cret@host:port/0", "percent-encoded"),
        ("redis://:s3cret@host/abc", "'abc'"),
        ("redis://host/0?socket_timeout=1&retry_on_timeout=1", "retry_on_timeout, socket_timeout"),
        ("redis://host/0?db=x", "'x'"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix://", "absolute path"),
        (None, "a str"),
    ],
)
def test_a_url_that_is_none_names_itself_but_not_its_password(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Endpoint.of(url)
    assert "s3" not in str(caught.value)
    assert "REALTIME_REDIS_URL" in str(caught.value)


@pytest.mark.parametrize("make", [SyncBus, AsyncBus])
def test_a_bus_checks_its_settings_when_it_is_made(make: type[SyncBus] | type[AsyncBus]) -> None:
    with pytest.raises(ValueError, match="REALTIME_REDIS_URL"):
        make("nowhere", prefix="rt")
    with pytest.raises(ValueError, match="REALTIME_PREFIX"):
        make("redis://h", prefix="{")


@pytest.mark.parametrize("make", [SyncSubscription, AsyncSubscription])
def test_a_subscription_checks_its_url_when_it_is_made(
    make: type[SyncSubscription] | type[AsyncSubscription],
) -> None:
    def nothing(*args: object) -> None: ...

    with pytest.raises(ValueError, match="REALTIME_REDIS_URL"):
        make("nowhere", timeout=1, on_up=nothing, on_message=nothing, on_subscribed=nothing, on_down=nothing, name="x")


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        ("NOSCRIPT No matching script.", redis_errors.NoScriptError, "Redis 7"),
        ("OOM command not allowed when used memory > 'maxmemory'.", redis_errors.OutOfMemoryError, "maxmemory"),
        ("READONLY You can't write against a read only replica.", redis_errors.ReadOnlyError, "primary"),
        ("LOADING Redis is loading the dataset in memory", redis_errors.BusyLoadingError, "It will be there"),
        ("NOAUTH Authentication required.", redis_errors.AuthenticationError, "password"),
        ("WRONGPASS invalid username-password pair", redis_errors.AuthenticationError, "password"),
        ("ERR AUTH <password> called without any password configured", redis_errors.AuthenticationError, "password"),
        ("NOPERM this user has no permissions", redis_errors.NoPermissionError, "ACL"),
        ("WRONGTYPE Operation against a key", redis_errors.ResponseError, "REALTIME_PREFIX"),
        ("ERR max number of clients reached", redis_errors.ConnectionError, "is up"),
        ("ERR unknown command 'EVALSHA'", redis_errors.ResponseError, "Redis 7"),
    ],
)
def test_every_refusal_has_a_remedy(text: str, kind: type[Exception], remedy: str) -> None:
    error = refusal(text)
    assert type(error) is kind
    assert str(error) in text
    said = str(Endpoint.of("redis://:s3cret@host").unavailable("publish", error, 2.0))
    assert said.startswith("publish: Redis at redis://host:6379/0 ")
    assert remedy in said
    assert "s3cret" not in said


def test_errors_are_read_through_their_wrapping_and_kept_short() -> None:
    endpoint = Endpoint.of("redis://host")
    wrapped = redis_errors.ConnectionError("x" * 5000)
    wrapped.__cause__ = redis_errors.AuthenticationError("no")
    said = str(endpoint.unavailable("publish", wrapped, 2.0))
    assert "password" in said
    assert len(said) < 600
    assert "2.5 s" in str(endpoint.unavailable("publish", TimeoutError(), 2.5))
    already = RealtimeUnavailable("x")
    assert endpoint.unavailable("publish", already, 2.0) is already


def test_a_client_name_has_no_spaces() -> None:
    assert client_name("a b\nü") == "a-b--"
