"""Look at what the page shows of results that are sent, and send them again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from pipeline.errors import IndexNotReady
from pipeline.outgoing.delivery import DestinationDown
from pipeline.outgoing.queue import OutgoingQueue
from pipeline.settings.tables import Rule
from tests.support.outgoing import Department, FakeDestination
from web.app import create_page
from web.audit import Audit


class Sent:
    """Hold a page whose results cannot be delivered."""

    def __init__(self, folder: Path) -> None:
        self.department = Department(folder)
        self.pacs = FakeDestination(answers=[DestinationDown("it does not answer")])
        self.lane = self.department.lane(self.pacs)
        self.department.judged("a.jpeg")
        outgoing = self.department.outgoing(self.lane)
        self.client: FlaskClient = create_page(
            self.department.store,
            self.department.index,
            1000,
            outgoing=outgoing,
            problems=outgoing.problems,
            audit=Audit(folder / "audit.jsonl", "secret"),
        ).test_client()

    def work(self) -> None:
        self.department.work(self.lane)

    def get(self, address: str, code: int = 200) -> str:
        answer = self.client.get(address)
        assert answer.status_code == code
        return answer.get_data(as_text=True)

    def kill(self) -> None:
        """Let a day pass."""
        for _ in range(26):
            self.work()
            self.department.wait(hours=1)
        self.work()


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Sent]:
    found = Sent(tmp_path)
    yield found
    found.department.close()


def test_an_xray_says_what_was_sent(sent: Sent) -> None:
    before = sent.get("/changes?name=a.jpeg")
    for _ in range(3):
        sent.work()
        sent.department.wait(minutes=5)
    html = sent.get("/xray/a.jpeg")
    assert "Waiting: it does not answer" in html
    assert "(tried 3 times)" in html
    change = json.loads(sent.get("/changes?name=a.jpeg"))["change"]
    assert change != json.loads(before)["change"]
    assert sent.client.get(f"/changes?name=a.jpeg&since={change}").status_code == 204
    assert f'data-change="{change}"' in html
    sent.pacs.answers = [None]
    sent.work()
    assert "<dt>PACS</dt>" in sent.get("/xray/a.jpeg")
    assert "Sent <time" in sent.get("/xray/a.jpeg")
    assert sent.client.get(f"/changes?name=a.jpeg&since={change}").status_code == 200


def test_what_could_not_be_delivered_is_told_and_sent_again(sent: Sent, tmp_path: Path) -> None:
    assert 'action="/send-again"' not in sent.get("/")
    sent.kill()
    sentence = "1 result could not be delivered to PACS since "
    assert sentence in sent.get("/")
    assert 'action="/send-again" method="post"' in sent.get("/")
    assert sentence in sent.get("/healthz", 503)
    assert 'cxr_outgoing{destination="PACS",state="dead"} 1' in sent.get("/metrics")
    assert "Could not be delivered: it does not answer" in sent.get("/xray/a.jpeg")
    foreign = sent.client.post("/send-again", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert sent.department.entry("a.jpeg").state == "dead"
    sent.pacs.answers = [None]
    assert sent.client.post("/send-again").location == "/"
    sent.work()
    assert sent.department.entry("a.jpeg").state == "done"
    assert sent.get("/healthz") == '{"status":"ok"}\n'
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["key"], line["count"]) for line in lines if line["action"] == "send"] == [(None, 1)]


def test_one_xray_is_sent_again(sent: Sent) -> None:
    sent.pacs.answers = [None]
    sent.work()
    json_please = {"Accept": "application/json"}
    answer = sent.client.post("/send-again?key=inbox/a.jpeg", headers=json_please)
    assert (answer.status_code, answer.json) == (202, {"count": 1})
    sent.work()
    assert len(sent.pacs.got) == 2
    assert sent.client.post("/send-again?key=inbox/none", headers=json_please).status_code == 404
    assert "/send-again" in json.loads(sent.get("/api/openapi.json"))["paths"]


def test_blind_mode_does_not_tell_by_what_is_sent(sent: Sent) -> None:
    row = sent.department.index.get("inbox/a.jpeg")
    assert row
    sent.work()
    shown = json.loads(sent.get("/changes?name=a.jpeg"))["change"]
    assert shown != row.change
    sent.client.set_cookie("blind", "1")
    assert json.loads(sent.get("/changes?name=a.jpeg"))["change"] == row.change
    assert f'data-change="{row.change}"' in sent.get("/xray/a.jpeg")


def test_numbers_without_a_queue(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexNotReady("the queue cannot be read")

    monkeypatch.setattr(OutgoingQueue, "counts", fail)
    numbers = sent.get("/metrics")
    assert "cxr_xrays" in numbers
    assert "cxr_outgoing" not in numbers


def test_each_destination_that_has_no_result_gets_a_button(tmp_path: Path) -> None:
    department = Department(tmp_path)
    one, other = FakeDestination("ONE"), FakeDestination("OTHER")
    lanes = department.lane(one, Rule(labels=("normal",))), department.lane(other)
    department.judged("a.dcm")
    department.work(*lanes)
    outgoing = department.outgoing(*lanes)
    client = create_page(department.store, department.index, 1000, outgoing=outgoing).test_client()
    verdict = json.loads(department.store.objects["outbox/a.dcm.json"])
    verdict["source"]["media_type"] = "application/dicom"
    stored = department.store.objects["outbox/a.dcm.json"]
    department.store.objects["outbox/a.dcm.json"] = json.dumps(verdict).encode()
    html = client.get("/xray/a.dcm").text
    assert "<dt>ONE</dt><dd>Not sent" in html
    assert "<dt>OTHER</dt><dd>Not sent" not in html
    department.store.objects["outbox/a.dcm.json"] = stored
    address = "/send-again?key=inbox/a.dcm&destination=ONE"
    assert address.replace("&", "&amp;") in html
    client.post(address)
    department.work(*lanes)
    assert (len(one.got), len(other.got)) == (1, 1)
    assert client.post(f"{address}X").status_code == 404
    department.close()
