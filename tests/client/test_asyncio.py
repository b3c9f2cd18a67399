"""What only the asyncio twin has: cancellation."""

import asyncio
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed

from shim.client import AsyncClient, State
from tests.client.scripted import DEADLINE, Peer, Server


def pouring(peer: Peer) -> object:
    peer.hello()
    peer.ready({"user": ["e", 0]})
    with suppress(ConnectionClosed):  # it may leave before the last one
        for seq in range(1, 201):
            peer.message(seq)
    return peer.until_closed()


def test_cancelling_receive_loses_nothing() -> None:
    server = Server(pouring)

    async def scenario() -> list[object]:
        got: list[object] = []
        async with AsyncClient(url=server.url, buffer_messages=3) as client:
            while len(got) < 200:
                task = asyncio.create_task(client.receive())
                await asyncio.sleep(0)
                if len(got) % 2:
                    task.cancel()
                try:
                    async with asyncio.timeout(DEADLINE):
                        got.append((await task).value)
                except asyncio.CancelledError:
                    got.append((await client.receive(DEADLINE)).value)
        return got

    with server.running():
        assert asyncio.run(scenario()) == list(range(1, 201))
        assert server.result() == (1000, "")


def test_cancelling_an_iteration_leaves_the_client_usable() -> None:
    server = Server(pouring)

    async def scenario() -> None:
        async with AsyncClient(url=server.url) as client:
            got: list[object] = []

            async def iterate() -> None:
                async for message in client:
                    got.append(message.value)  # noqa: PERF401 - what came before the cancellation counts

            task = asyncio.create_task(iterate())
            await client.wait_until(lambda c: len(got) == 200, DEADLINE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.connected
            with pytest.raises(TimeoutError):
                await client.receive(0)
        assert client.state is State.CLOSED

    with server.running():
        asyncio.run(scenario())


def test_a_cancelled_loop_says_1000_too() -> None:
    """Ctrl-C in asyncio.run: the task is cancelled, nobody calls close."""
    server = Server(pouring)

    async def scenario() -> None:
        client = await AsyncClient(url=server.url).open()
        await client.receive(DEADLINE)

    with server.running():
        asyncio.run(scenario())
        assert server.result() == (1000, "")


def test_a_cancelled_open_leaves_nothing() -> None:
    server = Server(lambda peer: (peer.hello(), peer.until_closed())[1])

    async def scenario() -> None:
        client = AsyncClient(url=server.url)
        task = asyncio.create_task(client.open())
        await client.wait_until(lambda c: c.state is State.GREETING, DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.state is State.CLOSED
        assert len(asyncio.all_tasks()) == 1

    with server.running():
        asyncio.run(scenario())
        assert server.result() == (1000, "")
