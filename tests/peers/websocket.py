"""Python's websockets, as client and as server, with the gateway between them."""

import asyncio
import os

import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from case import case, check

GATEWAY = "ws://127.0.0.1:8020"
MIB = 1 << 20


async def serve(connection):
    """Does what the path says."""
    what = connection.request.path.rsplit("/", 1)[1]
    if what == "close":
        await connection.close(4001, "as you like")
    elif what == "count":
        for number in range(1000):
            await connection.send(str(number))
    else:
        async for message in connection:
            await connection.send(message)


def refuse(connection, request):
    """One path is refused before the upgrade."""
    return connection.respond(403, "not here\n") if request.path.endswith("/refused") else None


def choose(connection, offered):
    return "chat" if "chat" in offered else None


def connect(path, **options):
    return websockets.connect(f"{GATEWAY}{path}", max_size=8 * MIB, **options)


async def echo(message, **options):
    async with connect("/websocket/echo", **options) as client:
        await client.send(message)
        answer = await client.recv()
        check(answer == message, f"{len(answer)} of {len(message)}")


async def fragments():
    parts = [b"a" * 1000, b"", b"b" * 70_000, b"c"]
    async with connect("/websocket/echo") as client:
        await client.send(iter(parts))
        check(await client.recv() == b"".join(parts), "another message")


async def pings():
    async with connect("/websocket/echo") as client:
        for _ in range(20):
            await asyncio.wait_for(await client.ping(), 5)


async def many_messages():
    async with connect("/websocket/count") as client:
        numbers = [await client.recv() for _ in range(1000)]
        check(numbers == [str(number) for number in range(1000)], "another order")


async def close_of_server():
    async with connect("/websocket/close") as client:
        try:
            await client.recv()
        except ConnectionClosed as closed:
            return check((closed.rcvd.code, closed.rcvd.reason) == (4001, "as you like"), closed.rcvd)
    raise AssertionError("it was not closed")


async def close_of_client():
    client = await connect("/websocket/echo")
    await client.close(4002, "enough")
    check(client.close_code == 4002, client.close_code)


async def subprotocol():
    async with connect("/websocket/echo", subprotocols=["other", "chat"]) as client:
        check(client.subprotocol == "chat", client.subprotocol)


async def compression():
    async with connect("/websocket/echo") as client:
        check("permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"], client.response.headers)


async def status_of(path):
    try:
        async with connect(path):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def refused():
    check(await status_of("/websocket/refused") == 403, "the server's refusal did not come through")


async def not_upgraded():
    status = await status_of("/no-upgrades")
    check(status != 101, "a route without upgrades was upgraded")


async def at_once():
    await asyncio.gather(*(echo(f"message {number}") for number in range(200)))


async def main():
    server = websockets.serve(
        serve, "127.0.0.1", 9010, process_request=refuse, select_subprotocol=choose, max_size=8 * MIB
    )
    async with server:
        for kind, name, run in [
            ("messages", "text", echo("grüß dich")),
            ("messages", "bytes", echo(bytes(range(256)))),
            ("messages", "nothing", echo("")),
            ("messages", "4 MiB", echo(os.urandom(4 * MIB))),
            ("messages", "4 MiB without compression", echo(os.urandom(4 * MIB), compression=None)),
            ("messages", "fragments", fragments()),
            ("messages", "a thousand from the server", many_messages()),
            ("control", "pings", pings()),
            ("control", "the server closes", close_of_server()),
            ("control", "the client closes", close_of_client()),
            ("handshake", "subprotocol", subprotocol()),
            ("handshake", "compression", compression()),
            ("handshake", "refused by the server", refused()),
            ("handshake", "a route without upgrades", not_upgraded()),
            ("load", "200 at once", at_once()),
        ]:
            error = None
            try:
                await asyncio.wait_for(run, 30)
            except Exception as found:
                error = found

            def outcome(error=error):
                if error:
                    raise error
            case(kind, name, outcome)


asyncio.run(main())
