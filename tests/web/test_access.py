"""Access to the page: by password, or by a reverse proxy's header."""

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from werkzeug.exceptions import TooManyRequests
from werkzeug.security import check_password_hash, generate_password_hash

from pipeline.errors import UsageError
from pipeline.settings import load_settings
from pipeline.store.folder import FolderStore
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.webpage import MAX_UPLOAD, Page
from web import login
from web.access import Access, access_of, url_of
from web.app import create_page
from web.login import Login
from web.users import user_line

PASSWORD = "correct horse battery"
QUICK = "scrypt:1024:1:1"  # like the real hashes, but much cheaper
USERS = {name: generate_password_hash(PASSWORD, QUICK) for name in ("ada", "grace")}
LINE = user_line("ada", PASSWORD)
Serve = Callable[[Access], Page]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve(access: Access) -> Page:
            store, index = FolderStore(tmp_path / "data"), SqliteIndex(tmp_path / "index.sqlite")
            stack.callback(index.close)
            page = Page(create_page(store, index, MAX_UPLOAD, access=access).test_client(), store, index)
            page.judged("a.jpeg", b"P")
            return page

        yield serve


@pytest.fixture
def page(serve: Serve) -> Page:
    return serve(Access(users=USERS))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the hashes that were compared with a password."""
    found: list[str] = []

    def check(hashed: str, password: str) -> bool:
        found.append(hashed)
        return check_password_hash(hashed, password)

    monkeypatch.setattr(login, "check_password_hash", check)
    return found


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


def code(page: Page, headers: dict[str, str], peer: str = "127.0.0.1", address: str = "/") -> int:
    with page.client.get(address, headers=headers, environ_base={"REMOTE_ADDR": peer}) as answer:
        return answer.status_code


# Passwords


def test_without_users_everybody_on_this_machine_may(serve: Serve) -> None:
    serve(Access()).get("/")


def test_all_but_the_life_sign_and_the_style_asks_for_a_password(page: Page) -> None:
    for address in ("/", "/xray/a.jpeg", "/preview/a.jpeg", "/changes", "/model", "/no", "/xray/no"):
        with page.client.get(address) as answer:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="CXR Inbox"'
            assert answer.headers["Content-Security-Policy"]
            assert "needs your name" in answer.text
            assert "a.jpeg" not in answer.text
    assert page.upload(("b.jpeg", b"P")).status_code == 401
    assert set(page.inbox()) == {"a.jpeg"}
    assert page.get("/healthz") == '{"status":"ok"}\n'
    page.get("/static/base.css")


def test_right_wrong_and_unknown(page: Page) -> None:
    assert "a.jpeg" in page.get("/", headers=basic("ada"))
    page.get("/xray/a.jpeg", headers=basic("grace"))
    for name, password in (("ada", "wrong"), ("eve", PASSWORD), ("", PASSWORD), ("ada", "")):
        page.get("/", 401, headers=basic(name, password))
    for header in ("Basic", "Basic !", "Basic " + b64encode(b"ada").decode(), "Bearer x"):
        page.get("/", 401, headers={"Authorization": header})


def test_an_unknown_name_costs_a_check_as_a_wrong_password_does(page: Page, checks: list[str]) -> None:
    page.get("/", 401, headers=basic("ada", "wrong"))
    page.get("/", 401, headers=basic("eve", "wrong"))
    assert len(checks) == 2


def test_another_site_cannot_use_the_visitors_password(page: Page) -> None:
    headers = {**basic("ada"), "Origin": "http://evil.example"}
    assert page.upload(("b.jpeg", b"P"), headers=headers).status_code == 403


def test_a_login_is_checked_once_at_each_address(page: Page, checks: list[str]) -> None:
    for _ in range(50):
        page.get("/", headers=basic("ada"))
    assert len(checks) == 1
    assert code(page, basic("ada"), "192.0.2.7") == 200
    assert code(page, basic("ada", PASSWORD + " "), "192.0.2.7") == 401
    assert len(checks) == 3


def test_what_is_remembered_is_bounded_and_ends(
    page: Page, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "_REMEMBERED", 2)
    with page.client.application.test_request_context():
        short = Login(USERS, remembered_seconds=0.2)
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3", "192.0.2.1"):
            assert short.check("ada", PASSWORD, address)
        assert len(checks) == 4
        time.sleep(0.25)
        assert short.check("ada", PASSWORD, "192.0.2.1")
        assert len(checks) == 5


# Guesses


def test_an_address_that_guesses_waits_and_others_do_not(page: Page, checks: list[str]) -> None:
    page.get("/", headers=basic("ada"))
    for number in range(10):
        page.get("/", 401, headers=basic(f"guess {number}", "wrong"))
    with page.client.get("/", headers=basic("ada")) as answer:  # though it is right, and was known
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 600
        assert "too many wrong passwords" in answer.text
    assert len(checks) == 11
    assert code(page, {}) == 401
    assert code(page, basic("ada"), "192.0.2.7") == 200


def test_a_name_that_is_guessed_at_waits_but_who_is_in_stays_in(page: Page) -> None:
    assert code(page, basic("ada"), "192.0.2.200") == 200
    for number in range(10):
        assert code(page, basic("ada", "wrong"), f"192.0.2.{number}") == 401
    assert code(page, basic("ada"), "192.0.2.100") == 429
    assert code(page, basic("ada"), "192.0.2.200") == 200
    assert code(page, basic("grace"), "192.0.2.100") == 200


def test_guesses_of_one_ipv6_network_are_one_visitors(page: Page) -> None:
    for number in range(10):
        assert code(page, basic(f"guess {number}"), f"2001:db8::{number}") == 401
    assert code(page, basic("ada"), "2001:db8::ffff:1") == 429
    assert code(page, basic("ada"), "2001:db8:0:1::1") == 200


def test_guesses_sent_together_do_not_outrun_their_count(page: Page, checks: list[str]) -> None:
    def guess(number: int) -> int:
        return page.client.application.test_client().get("/", headers=basic("ada", str(number))).status_code

    with ThreadPoolExecutor(8) as threads:
        codes = list(threads.map(guess, range(24)))
    assert (codes.count(401), codes.count(429)) == (10, 14)
    assert len(checks) == 10


def test_the_wait_ends(page: Page) -> None:
    with page.client.application.test_request_context():
        short = Login(USERS, failure_seconds=1)
        assert not any(short.check("ada", "wrong", "192.0.2.1") for _ in range(10))
        with pytest.raises(TooManyRequests):
            short.check("ada", PASSWORD, "192.0.2.1")
        time.sleep(1.1)
        assert short.check("ada", PASSWORD, "192.0.2.1")


# A reverse proxy


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(f"CXR_{name.upper()}", value)
        yield


def access(address: str = "127.0.0.1", **variables: str) -> Access:
    with environment(**variables):
        return access_of(load_settings(), address)


def test_the_header_is_believed_from_the_proxies_alone(serve: Serve) -> None:
    proxies = "127.0.0.1,10.1.0.0/16"
    page = serve(access("0.0.0.0", proxy_header="X-Remote-User", proxy_addresses=proxies))
    named = {"X-Remote-User": "ada"}
    assert [code(page, named, peer) for peer in ("127.0.0.1", "10.1.2.3")] == [200, 200]
    assert [code(page, named, peer) for peer in ("10.2.0.1", "192.0.2.1", "::1")] == [403, 403, 403]
    assert [code(page, headers) for headers in ({}, {"X-Remote-User": " "}, basic("ada"))] == [401] * 3
    assert code(page, {}, "192.0.2.1", "/healthz") == 200


def test_an_ipv4_address_that_ipv6_carries_is_that_address(serve: Serve) -> None:
    page = serve(access("0.0.0.0", proxy_header="X-Remote-User", proxy_addresses="127.0.0.1,10.1.0.0/16"))
    named = {"X-Remote-User": "ada"}
    for peer, status in (("::ffff:127.0.0.1", 200), ("::ffff:a01:203", 200), ("::ffff:10.2.0.1", 403)):
        assert code(page, named, peer) == status
    carried = access(proxy_header="X-Remote-User", proxy_addresses="::ffff:10.1.0.0/112,::/0").proxies
    assert list(map(str, carried)) == ["10.1.0.0/16", "::/0"]
    assert access("::ffff:127.0.0.1").address == "127.0.0.1"
    with pytest.raises(UsageError, match="anyone on the network"):
        access("::ffff:192.168.7.1")


def test_guesses_are_counted_by_address_however_it_is_written(serve: Serve) -> None:
    page = serve(access_with_users())
    for number in range(10):
        headers = {"X-Forwarded-For": "::ffff:198.51.100.1", **basic(f"guess {number}")}
        assert code(page, headers, "127.0.0.1") == 401
    assert code(page, {"X-Forwarded-For": "198.51.100.1", **basic("ada")}, "127.0.0.1") == 429


def test_guesses_through_a_proxy_are_counted_by_visitor(serve: Serve) -> None:
    page = serve(access_with_users())
    far = "127.0.0.1"
    for number in range(10):
        headers = {"X-Forwarded-For": f"203.0.113.{number}, 198.51.100.1", **basic(f"guess {number}")}
        assert code(page, headers, far) == 401
    assert code(page, {"X-Forwarded-For": "198.51.100.1", **basic("ada")}, far) == 429
    assert code(page, {"X-Forwarded-For": "198.51.100.2", **basic("ada")}, far) == 200
    for number in range(10):  # an address that is not a proxy cannot name the user
        headers = {"X-Forwarded-For": f"203.0.113.{number}", **basic(f"guess again {number}")}
        assert code(page, headers, "192.0.2.1") == 401
    assert code(page, basic("ada"), "192.0.2.1") == 429


def access_with_users() -> Access:
    found = access()
    return Access(found.address, found.hosts, USERS, None, found.proxies)


# Names and settings


def test_the_page_answers_to_its_names(serve: Serve) -> None:
    page = serve(access("192.168.7.1", page_hosts="CXR.example, x.example", proxy_header="X-Remote-User"))
    expected = {"cxr.example:8000": 200, "x.example": 200, "192.168.7.1:80": 200, "y.example": 400}
    for host, status in expected.items():
        assert code(page, {"Host": host, "X-Remote-User": "ada"}) == status
    assert access("::1").hosts == ("[::1]",)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.7.1", "fe80::1"])
def test_a_network_needs_users(address: str) -> None:
    with pytest.raises(UsageError, match=r"cxr password FILE"):
        access(address)


def test_wrong_settings_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--host takes an address"):
        access("localhost")
    with pytest.raises(UsageError, match="not both"):
        access(users=str(tmp_path), proxy_header="X-Remote-User")
    with pytest.raises(UsageError, match="CXR_PROXY_ADDRESSES: proxy is not an address"):
        access(proxy_header="X-Remote-User", proxy_addresses="127.0.0.1,proxy")
    with pytest.raises(UsageError, match="cannot be read"):
        access(users=str(tmp_path / "none"))


def test_where_a_person_opens_it() -> None:
    assert [url_of(address, 80) for address in ("127.0.0.1", "::1", "0.0.0.0", "::")] == [
        "http://127.0.0.1:80",
        "http://[::1]:80",
        "http://localhost:80",
        "http://localhost:80",
    ]
