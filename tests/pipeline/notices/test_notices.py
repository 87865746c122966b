"""Notices: signed, at least once with a stable id, by rule, and without the names of patients."""

import json
import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers import wiring
from pipeline.errors import UsageError
from pipeline.notices import webhook
from pipeline.notices.messages import Messages
from pipeline.notices.notice import Notice, NoticeWriter, notice_json_schema
from pipeline.notices.webhook import Webhook, signature_of
from pipeline.outgoing.delivery import Delivery, DestinationDown, Refused, TryAgain
from pipeline.outgoing.lane import Lane
from pipeline.outgoing.queue import OutgoingQueue
from pipeline.settings import Settings
from pipeline.settings.tables import NotifyTo, Rule
from pipeline.verdict import DOUBTS, NOTICE
from tests.support.outgoing import Department
from tests.support.receiver import SECRET, receiving, recipe
from tests.support.results import classified, finding, refused

KEY = "inbox/Beeblebrox Zaphod 770077.dcm"
WRITER = NoticeWriter("on call", "a key")


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    found = Department(tmp_path)
    yield found
    found.close()


def notice(verdict: Any, **more: Any) -> Notice:
    return NoticeWriter("on call", "a key", **more).write(Delivery(KEY, "etag", verdict))


def hook(to: str, writer: NoticeWriter = WRITER, **more: Any) -> Webhook:
    return Webhook(NotifyTo(name="on call", to=to, secret=SECRET, **more), writer)


def lane_of(department: Department, destination: Any, rule: Rule | None = None) -> Lane:
    return department.lane(destination, rule)


def sent(destination: Webhook | Messages) -> None:
    destination.deliver(Delivery(KEY, "etag", classified()))


# What a notice says


def test_a_notice_says_what_the_verdict_says() -> None:
    verdict = classified(finding(0.9712))
    found = json.loads(notice(verdict, page_url="https://cxr.example/").to_json())
    data = found["data"]
    assert (found["type"], data["status"], data["label"]) == ("verdict", "classified", "pneumonia")
    assert (data["probability"], data["prevalence"]) == (0.9712, verdict.finding.prevalence)  # type: ignore[union-attr]
    assert data["model"]["sha256"] == verdict.model.sha256  # type: ignore[union-attr]
    assert data["verdict_etag"] == "etag"
    assert data["links"]["page"].startswith("https://cxr.example/x/")
    assert data["links"]["report"].startswith("https://cxr.example/fhir/DiagnosticReport/")
    assert data["notice"] == NOTICE
    assert set(data) <= notice_json_schema()["$defs"]["NoticeData"]["properties"].keys()  # type: ignore[index]


@pytest.mark.parametrize("doubt", DOUBTS)
def test_without_a_call_there_is_no_number(doubt: Any) -> None:
    made = notice(classified(finding(0.9712).model_copy(update={"label": "uncertain"}), [doubt]))
    data = json.loads(made.to_json())["data"]
    assert data.keys().isdisjoint({"probability", "prevalence"})
    assert "0.97" not in made.text
    assert made.text.startswith(f"An X-ray was judged: uncertain (no call: {doubt.replace('_', ' ')}).")


def test_people_read_plain_sentences() -> None:
    made = notice(classified(finding(0.9712)), page_url="https://cxr.example")
    assert made.title == "X-ray judged: pneumonia"
    first, second, third = made.text.splitlines()
    assert first == "An X-ray was judged: pneumonia (P 0.97). Not for diagnosis."
    assert second == f"X-ray {made.data.xray}"
    assert third == made.data.links.page  # type: ignore[union-attr]
    for status, title, start in (
        ("rejected", "X-ray rejected", "An X-ray was rejected: not a chest xray. Not for diagnosis."),
        ("failed", "X-ray not judged", "An X-ray could not be judged: not a chest xray. Not for diagnosis."),
    ):
        made = notice(refused(status, "not_a_chest_xray"))
        assert (made.title, made.text.splitlines()[0]) == (title, start)


def test_ids_are_of_verdict_and_receiver() -> None:
    def id_of(receiver: str, key: str, etag: str, secret: str = "a key") -> str:
        return NoticeWriter(receiver, secret).write(Delivery(key, etag, classified())).data.id

    assert id_of("a", KEY, "1") == id_of("a", KEY, "1")
    others = [("b", KEY, "1"), ("a", "inbox/b", "1"), ("a", KEY, "2"), ("a", KEY, "1", "another")]
    assert len({id_of("a", KEY, "1"), *(id_of(*other) for other in others)}) == 5


def test_no_name_unless_asked() -> None:
    for verdict in (classified(), refused("failed", "internal"), refused("rejected", "unreadable")):
        made = notice(verdict, page_url="https://cxr.example")
        everything = made.to_json().decode() + made.title + made.text
        for word in ("Zaphod", "Beeblebrox", "770077", "inbox/B"):
            assert word not in everything
    assert notice(classified(), with_name=True).data.name == KEY.removeprefix("inbox/")
    assert "Zaphod" not in notice(classified(), with_name=True).text


# Webhooks


def test_a_webhook_is_signed_as_the_document_says() -> None:
    with receiving() as receiver:
        sent(hook(f"{receiver.url}/cxr?of=us"))
    assert receiver.are_genuine
    assert receiver.paths == ["/cxr?of=us"]
    assert receiver.ids == [receiver.notices[0]["data"]["id"]]
    headers, body = receiver.headers[0], receiver.bodies[0]
    assert headers["content-type"] == "application/json"
    assert not recipe()(SECRET, headers, body + b" ")
    assert not recipe()(SECRET, {**headers, "webhook-id": "msg_1"}, body)
    assert not recipe()(SECRET, {**headers, "webhook-timestamp": "1700000000"}, body)
    assert not recipe()("whsec_" + "A" * 32, headers, body)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own libraries."""
    import base64

    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature_of(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (500, DestinationDown, "cannot take anything now (HTTP 500)"),
        (503, DestinationDown, "HTTP 503"),
        (429, DestinationDown, "HTTP 429"),
        (302, DestinationDown, "redirects to another address (HTTP 302)"),
        (308, DestinationDown, "HTTP 308"),
        (400, TryAgain, "refused the notice (HTTP 400)"),
        (410, Refused, "HTTP 410"),
        (0, DestinationDown, "too long"),
    ],
)
def test_answers_of_a_webhook(
    status: int, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "_STEP_SECONDS", 0.3 if status == 0 else 10)
    with receiving(status) as receiver:
        with pytest.raises(kind) as error:
            sent(hook(receiver.url))
        assert type(error.value) is kind
    assert said in str(error.value)
    assert len(receiver.bodies) == 1  # no redirect was followed


def raw_server(answer: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1], server


def test_a_receiver_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_TOTAL_SECONDS", 0.5)
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200")
        while not ended.wait(0.05):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    port, server = raw_server(drip)
    with server, pytest.raises(DestinationDown, match="too long"):
        sent(hook(f"http://127.0.0.1:{port}"))
    ended.set()


def test_one_that_is_no_http_server_or_not_there() -> None:
    port, server = raw_server(lambda connection: connection.sendall(b"SSH-2.0-x\r\n"))
    with server, pytest.raises(DestinationDown, match=r"as an HTTP server does|does not answer"):
        sent(hook(f"http://127.0.0.1:{port}"))
    with pytest.raises(DestinationDown, match="does not answer"):
        sent(hook(f"http://127.0.0.1:{port}"))
    for address in ("https://a..b/", "https://%s.invalid/" % ("a" * 70)):
        with pytest.raises(ValueError, match="this is no address"):
            hook(address)


@pytest.mark.whole
def test_tls_is_checked(tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    got: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                got.append(b"")
                while not got[-1].endswith(b"}}"):
                    got[-1] += secure.recv(10_000)
                secure.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        except OSError:
            pass

    for ca, is_fine in ((None, False), (tmp_path / "cert.pem", True)):
        port, server = raw_server(answer)
        with server:
            if is_fine:
                sent(hook(f"https://127.0.0.1:{port}", ca=ca))
            else:
                with pytest.raises(DestinationDown, match="certificate is not trusted"):
                    sent(hook(f"https://127.0.0.1:{port}", ca=ca))
    assert len(got) == 1
    with pytest.raises(UsageError, match=r"the file ca of .* cannot be used: No such file"):
        hook("https://127.0.0.1", ca=tmp_path / "none")


# Through the queue


class Crash(BaseException):
    """End the program, as a kill would."""


def test_down_and_back_and_killed_before_it_is_noted(
    department: Department, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as early:
        port = early.port
    destination = hook(f"http://127.0.0.1:{port}")
    lane = lane_of(department, destination)
    for name in "abc":
        department.judged(f"{name}.dcm")
    department.work(lane)
    assert "does not answer" in str(department.entry("a.dcm").said)
    department.wait(minutes=10)

    def killed(*_: object) -> None:
        raise Crash

    with receiving(500, 503, 204, port=port) as receiver:
        for _ in range(4):
            department.work(lane)
            if len(receiver.bodies) >= 2:
                break
            department.wait(minutes=10)
        department.wait(minutes=10)
        with monkeypatch.context() as patch:
            patch.setattr(OutgoingQueue, "finish", killed)
            with pytest.raises(Crash):
                department.work(lane)
        again = receiver.ids[-1]
        department.open_queue()
        department.wait(minutes=1)
        lane = lane_of(department, hook(receiver.url))  # as after a start
        department.work(lane)
    assert {department.entry(f"{name}.dcm").state for name in "abc"} == {"done"}
    assert receiver.ids.count(again) >= 2
    assert len(set(receiver.ids)) == 3  # each at least once, and always by the same id
    assert receiver.are_genuine


def test_gone_is_dead_at_once(department: Department) -> None:
    with receiving(410) as receiver:
        lane = lane_of(department, hook(receiver.url))
        department.judged("a.dcm")
        department.work(lane)
        department.wait(hours=1)
        department.work(lane)
    assert len(receiver.bodies) == 1
    assert department.entry("a.dcm").state == "dead"
    assert "takes no notices any more" in department.outgoing(lane).problems()[0]


def test_the_rule_chooses_and_no_name_leaves(
    department: Department, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as receiver:
        table = NotifyTo(name="on call", to=receiver.url, secret=SECRET, labels=("pneumonia",))
        people = NotifyTo(name="people", to=receiver.url.replace("http", "json"), statuses=("rejected",))
        lanes = [
            lane_of(department, Webhook(table, WRITER), table),
            lane_of(department, Messages(people, WRITER), people),
        ]
        for name, data in (("Zaphod", b"P"), ("b", b"N"), ("Beeblebrox", b"bad")):
            department.judged(name, data)
        department.work(*lanes)
        for_program, for_people = sorted(receiver.notices, key=lambda one: "data" not in one)
    assert for_program["data"]["label"] == "pneumonia"
    assert for_people["message"].startswith("An X-ray was rejected: unreadable. Not for diagnosis.")
    said = b"".join(receiver.bodies).decode() + str(receiver.headers) + str(receiver.paths) + caplog.text
    assert "Zaphod" not in said
    assert "Beeblebrox" not in said
    assert "whsec_" not in caplog.text


# Messages of apprise


def messages(to: str) -> Messages:
    return Messages(NotifyTo(name="people", to=to), WRITER)


def test_apprise_brings_title_and_text() -> None:
    with receiving() as receiver:
        sent(messages(f"json://127.0.0.1:{receiver.port}/hook"))
    [got] = receiver.notices
    assert got["title"] == "X-ray judged: pneumonia"
    assert got["message"].startswith("An X-ray was judged: pneumonia (P 0.93). Not for diagnosis.\nX-ray ")


def test_apprise_that_fails_waits_and_says_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(500) as receiver, pytest.raises(DestinationDown, match="does not take the message"):
        sent(messages(f"json://ada:s3cret@127.0.0.1:{receiver.port}"))
    with receiving(302) as receiver, pytest.raises(DestinationDown):
        sent(messages(f"json://127.0.0.1:{receiver.port}"))
    assert len(receiver.bodies) == 1
    with pytest.raises(UsageError) as error:
        messages("slack://s3cret")
    assert str(error.value).startswith("[[notify]] people: apprise cannot use this address")
    assert "s3cret" not in str(error.value) + caplog.text


def test_mail_arrives() -> None:
    lines: list[str] = []
    ended = threading.Event()

    def smtp(connection: socket.socket) -> None:
        with connection.makefile("rwb") as file:

            def say(text: str) -> None:
                file.write(text.encode() + b"\r\n")
                file.flush()

            say("220 sink")
            in_data = False
            for line in file:
                lines.append(line.decode().rstrip())
                if in_data:
                    if lines[-1] == ".":
                        in_data = False
                        say("250 taken")
                    continue
                word = lines[-1][:4].upper()
                in_data = word == "DATA"
                say({"DATA": "354 go on", "QUIT": "221 bye"}.get(word, "250 fine"))
                if word == "QUIT":
                    break
        ended.set()

    port, server = raw_server(smtp)
    with server:
        sent(messages(f"mailto://127.0.0.1:{port}?to=oncall@hospital.example&from=cxr@hospital.example"))
        assert ended.wait(10)
    assert any(line.startswith("rcpt") and "oncall@hospital.example" in line for line in lines)
    assert any(line.startswith("Subject:") and "X-ray judged: pneumonia" in line for line in lines)
    assert any(
        line.rstrip("=") == "An X-ray was judged: pneumonia (P 0.93). Not for diagnosis." for line in lines
    )
    assert not any("apprise" in line.lower() and "http" in line for line in lines)


# The settings choose


def made(tmp_path: Path, department: Department, *tables: NotifyTo, **more: Any) -> Any:
    settings = Settings(root=tmp_path, notify=tables, **more)
    return wiring.make_outgoing(settings, department.store, department.index)


def test_receivers_of_the_settings(tmp_path: Path, department: Department) -> None:
    with receiving() as receiver:
        table = NotifyTo(name="on call", to=receiver.url, secret=SECRET, with_name=True)
        people = NotifyTo(name="people", to=f"json://127.0.0.1:{receiver.port}")
        xrays: set[str] = set()
        for number in range(2):  # a start each; the hash stays
            outgoing = made(tmp_path, department, table, people, page_url="https://cxr.example")
            assert outgoing.names == ["on call", "people"]
            outgoing.lanes[0].follow()
            department.judged("a.dcm", b"P%d" % number)
            outgoing.lanes[0].follow()
            assert outgoing.lanes[0].deliver_next()
            xrays.add(receiver.notices[-1]["data"]["xray"])
            outgoing.close()
    assert len(xrays) == 1
    assert receiver.notices[-1]["data"]["name"] == "a.dcm"
    assert "/x/" in receiver.notices[-1]["data"]["links"]["page"]
    assert (tmp_path / ".cxr" / "notices.key").stat().st_mode & 0o77 == 0


def test_one_name_for_two_destinations_is_told(tmp_path: Path, department: Department) -> None:
    from pipeline.settings.tables import SendTo

    table = NotifyTo(name="PACS", to="https://b", secret=SECRET)
    with pytest.raises(UsageError, match="have the same name"):
        made(tmp_path, department, table, send=[SendTo(name="PACS", to="dicom://A@b")])


def test_messages_without_the_extra_are_told(
    tmp_path: Path, department: Department, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "pipeline.notices.messages", raising=False)
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UsageError, match=r"\[\[notify\]\] people needs the extra pacs: pip install"):
        made(tmp_path, department, NotifyTo(name="people", to="json://127.0.0.1"))
