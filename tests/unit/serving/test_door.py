"""Who may enter: by key, or by the name that the request is addressed to; and bodies that never end."""

import asyncio

import httpx
import pytest

from tunemake.serving import door
from tunemake.serving.door import Door


async def echo(scope, receive, send):
    """Answer with the body."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"] + scope["path"].encode()})


def asked(app, path="/v1/models", **given):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
            return await client.post(path, **given)

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000"])
def test_without_a_key_this_machines_names_open(host):
    app = Door(echo, None, ("127.0.0.1", "localhost", "[::1]"))
    assert asked(app, headers={"host": host}, content=b"x").text == "x/v1/models"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::2]:8000", "127.0.0.1.evil.example"])
def test_without_a_key_no_other_name_does(host):
    app = Door(echo, None, ("127.0.0.1", "localhost", "[::1]"))
    answer = asked(app, headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")


def test_a_key_of_any_letters_opens_under_any_name():
    app = Door(echo, "ключ 1", ())
    right = {"host": "far.example", "authorization": "bearer ключ 1".encode()}
    assert asked(app, headers=right).status_code == 200
    assert asked(app, headers={"authorization": b"Basic x"}).status_code == 401
    assert asked(app, "/health").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(door, "_PATIENCE", 0.05)
    monkeypatch.setattr(door, "_LINGER", 0.05)

    async def slowly():
        yield b"x"
        await asyncio.sleep(60)

    answer = asked(Door(echo, None, ("127.0.0.1",)), content=slowly())
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
