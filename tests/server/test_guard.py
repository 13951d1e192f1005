"""Who is let in, over an application that says that it was asked."""

import asyncio
import base64
import json
from typing import Any

import pytest

from kernel.server.guard import Guard, Rules, is_address, name_of, urlsplit_of
from tests.server.started import run_alone

HOST = "127.0.0.1:8765"


def asked(rules: Rules, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of what comes of one request through a guard."""
    return run_alone(answer(Guard(reading, rules), method, body, headers))


async def answer(guard: Guard, method: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    said: list[Any] = []
    own = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": "http", "method": method, "headers": [(a.encode(), b.encode()) for a, b in own.items()]}
    chunks = [body[start : start + 10] for start in range(0, len(body), 10)] or [b""]

    async def receive() -> Any:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        said.append(message)

    await guard(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], found, b"".join(own.get("body", b"") for own in said[1:])


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads all that it is sent."""
    more = True
    while more:
        more = (await receive())["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"asked"})


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "127.0.0.2"])
def test_names_of_this_machine_are_let_in(host):
    assert asked(Rules(), host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "192.168.1.5", "127.0.0.1.evil.example", "", "[", "::1]"]
)
def test_other_names_are_refused_before_the_application_is_asked(host):
    status, _, body = asked(Rules(), host=host)
    assert status == 403 and "the request came under the name" in json.loads(body)["error"]


def test_a_name_that_was_given_is_let_in_and_named_by_the_refusal():
    assert asked(Rules(frozenset({"box.lan"})), host="box.lan:80")[0] == 200
    assert "--name box.lan" in json.loads(asked(Rules(), host="box.lan:80")[2])["error"]


def test_on_an_address_that_others_reach_any_ip_address_is_a_name_and_no_other_is():
    rules = Rules(address="0.0.0.0")
    assert asked(rules, host="192.168.1.5:8765")[0] == 200
    assert asked(rules, host="evil.example:8765")[0] == 403


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),  # a program, no page
        ({"origin": f"http://{HOST}"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),  # another server of this machine
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
def test_pages_of_others_cannot_send_anything(headers, status):
    assert asked(Rules(), "POST", **headers)[0] == status


def test_a_link_of_another_page_may_lead_here():
    assert asked(Rules(), "GET", sec_fetch_site="cross-site")[0] == 200


def test_behind_a_proxy_its_name_may_be_the_page_s():
    assert asked(Rules(frozenset({"proxy.example"})), "POST", origin="https://proxy.example")[0] == 200


def test_by_the_machine_s_own_name_only_its_own_page_can_send_anything():
    rules = Rules(machine="box.lan")
    assert asked(rules, "POST", host="box.lan:8765", origin="http://box.lan:8765")[0] == 200
    assert asked(rules, "POST", host="box.lan:8765", origin="http://box.lan:3000")[0] == 403
    assert asked(Rules(), host="")[0] == 403  # no name is no machine's


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "given, status",
    [
        (None, 401),
        (basic("anybody", "a long pässword"), 200),
        (basic("", "a long pässword"), 200),
        (basic("anybody", "a long password"), 401),
        (basic("anybody", ""), 401),
        ("Basic ???", 401),
        ("Bearer a long pässword", 401),
    ],
)
def test_a_password_is_asked_for_where_there_is_one(given, status):
    found, headers, body = asked(Rules(password="a long pässword"), **({"authorization": given} if given else {}))
    assert found == status and ("www-authenticate" in headers) == (status == 401)
    assert status == 200 or "the password is missing or wrong" in json.loads(body)["error"]


@pytest.mark.parametrize("said", ["100", "5", "x", None])
def test_bytes_are_counted_whatever_a_request_says_of_itself(said):
    headers = {"content_length": said} if said else {}
    status, found, body = asked(Rules(most_bytes=50), "POST", b"1" * 51, **headers)
    assert status == 413 and found["connection"] == "close" and "larger than" in json.loads(body)["error"]
    assert asked(Rules(most_bytes=51), "POST", b"1" * 51)[0] == 200


def test_more_requests_than_may_wait_are_not_read():
    async def several() -> list[int]:
        release, inside = asyncio.Event(), []

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            inside.append(scope)
            if len(inside) > 2:  # a third one came in
                release.set()
            await release.wait()
            await reading(scope, receive, send)

        guard = Guard(slow, Rules(most_waiting=2))
        first = [asyncio.create_task(answer(guard, "POST", b"", {})) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await answer(guard, "POST", b"", {})
        release.set()
        return [
            refused[0],
            *[own[0] for own in await asyncio.gather(*first)],
            (await answer(guard, "POST", b"", {}))[0],
        ]

    assert run_alone(several()) == [503, 200, 200, 200]


def test_every_answer_forbids_what_comes_from_elsewhere():
    for headers in ({}, {"host": "evil.example"}):
        found = asked(Rules(), **headers)[1]
        assert "default-src 'none'" in found["content-security-policy"] and found["x-content-type-options"] == "nosniff"
        assert not any(word in found["content-security-policy"] for word in ("http", "*", "unsafe"))


def test_names_of_hosts():
    assert name_of("[::1]:8765") == "::1" and name_of("Localhost:80") == "localhost" and name_of("[") == ""
    assert urlsplit_of("http://127.0.0.1:8765") == "127.0.0.1:8765" and urlsplit_of("null") == ""
    assert is_address("::1") and not is_address("1.example")
