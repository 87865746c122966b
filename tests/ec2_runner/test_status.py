"""`cxr status`, `cxr destroy`, and the commands as people type them."""

import base64
import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.cloudformation.models import CloudFormationBackend
from moto.core.responses import ActionResult
from moto.ec2.responses.general import General
from typer.testing import CliRunner

from cxr.commands import app
from ec2_runner.host.agent import Publisher
from ec2_runner.stack import release
from ec2_runner.stack.cloudformation import CloudFormationStack
from ec2_runner.stack.destroy import destroy_stack
from ec2_runner.stack.status import report
from ec2_runner.stack.upload import CURRENT
from handlers import wiring
from pipeline.errors import CxrError, StackError, StackGoesOn, UsageError
from pipeline.intake import record_verdict
from pipeline.running.service import WorkerStatus
from pipeline.settings import Settings
from pipeline.store.s3 import S3Store
from pipeline.verdict import Release, Source, Verdict
from tests.support import stacks
from tests.support.fakes import FakeEngine
from tests.support.stacks import ARTIFACTS, BUCKET, NAME, REGION, Cloud

HOST = "AROAEXAMPLE:"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with stacks.cloud(tmp_path) as made:
        yield made


@pytest.fixture
def deployed(cloud: Cloud) -> Cloud:
    cloud.deploy()
    return cloud


def lines(cloud: Cloud) -> list[str]:
    state = cloud.stack.read()
    assert state is not None
    settings = Settings(stack=NAME)
    store = wiring.open_bucket(state.parameters["BucketName"])
    observer = wiring.make_observer(settings, store)
    index, artifacts = (
        wiring.make_dynamo_index(settings),
        wiring.open_bucket(state.outputs["ArtifactBucket"]),
    )
    return list(report(state, REGION, store, artifacts, index, observer, cloud.aws.client("ec2")))


def put(cloud: Cloud, key: str, content: str | bytes) -> None:
    cloud.aws.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)


def verdict(key: str) -> bytes:
    source = Source(bucket=BUCKET, key=key, etag="e", size=1)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reason = {"code": "empty", "message": "The file is empty. Export it again."}
    made = Verdict(
        status="rejected", source=source, reason=reason, release=Release(), started_at=now, finished_at=now
    )
    return made.to_json()


def test_a_new_stack_has_no_host_and_nothing_to_do(deployed: Cloud) -> None:
    said = "\n".join(lines(deployed))
    assert "UPDATE_COMPLETE" in said
    assert f"s3://{BUCKET}/inbox/" in said
    assert "release   2-" in said
    assert "none; the next job launches one" in said
    assert "0 waiting, 0 at work, 0 to come again; no wait measured recently" in said
    assert "none lately" in said


def test_a_host_at_work_is_shown_with_its_worker(deployed: Cloud) -> None:
    instance = deployed.launch()
    moment = datetime(2026, 1, 1, 10, 0, 0, 123, UTC)
    status = WorkerStatus(
        state="busy",
        since=moment,
        release=Release(number=2),
        model=FakeEngine.model,
        started_at=moment,
        at=moment,
        last_job_at=None,
        active=3,
        results={"failed": 1},
        jobs_a_minute=40,
        last_error="a defect of ours",
        last_error_at=moment,
    )
    publisher = Publisher(S3Store(BUCKET, deployed.aws.client("s3")), f"{HOST}{instance}")
    assert publisher.publish("status.json", status.model_dump(mode="json"))
    put(
        deployed,
        f"system/hosts/{HOST}{instance}/update-failed.txt",
        "release 3-ab: it failed its own check\n",
    )
    said = "\n".join(lines(deployed))
    assert f"{instance}: running, t3.medium" in said
    assert "busy at 2026-01-01 10:00:00, release 2, 3 at work, 40 in the last minute, last job never" in said
    assert "last error: a defect of ours" in said
    assert "its update failed: release 3-ab" in said
    put(deployed, f"system/hosts/{HOST}{instance}/update-failed.txt", "")
    put(deployed, f"system/hosts/{HOST}{instance}/status.json", "[damaged")
    said = "\n".join(lines(deployed))
    assert "update failed" not in said
    assert "worker" not in said


def console(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    """Let the hosts' console show a text."""
    content = text if isinstance(text, bytes) else text.encode()
    answer = {"InstanceId": "i-1", "Output": base64.b64encode(content).decode()}
    monkeypatch.setattr(General, "get_console_output", lambda _: ActionResult(answer))


def shown(said: list[str]) -> list[str]:
    """Return the lines of the console."""
    if not any(line.startswith("console") for line in said):
        return []
    first = next(n for n, line in enumerate(said) if line.startswith("console")) + 1
    return [line.strip() for line in said[first : said.index(next(x for x in said if x.startswith("jobs ")))]]


def reported(cloud: Cloud, instance: str, at: datetime) -> None:
    """Publish a report of a host's worker."""
    status = WorkerStatus(
        state="ready",
        since=at,
        release=Release(number=2),
        model=FakeEngine.model,
        started_at=at,
        at=at,
        last_job_at=None,
        active=0,
        results={},
        jobs_a_minute=0,
        last_error=None,
        last_error_at=None,
    )
    put(cloud, f"system/hosts/{HOST}{instance}/status.json", status.model_dump_json())


def test_the_console_of_a_host_that_installs_is_shown(
    deployed: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.launch()
    text = "".join(f"line {n}\r\n" for n in range(50))
    console(deployed, monkeypatch, f"{text}\x1b[0;32mcxr: the installation failed\x1b[0m: 403\r\n\r\n")
    said = lines(deployed)
    assert any("the host is installing, or does not report" in line for line in said)
    (*rest, last) = shown(said)
    assert last == "cxr: the installation failed: 403"
    assert rest == [f"line {n}" for n in range(31, 50)]


def test_a_console_cannot_move_the_cursor(deployed: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that was taken over decides what its console holds."""
    deployed.launch()
    evil = (
        b"\x1b]0;title\x07a\x1b[2Jb\x1b]52;c;aGk=\x1b\\c\x9b31md\x08\x00\xff\xfe \xe2\x80\xaee\x1b"
        + b"x" * 500
    )
    console(deployed, monkeypatch, evil)
    said = "".join(lines(deployed))
    assert said.isprintable()
    assert "abc" in said
    assert "title" not in said
    assert max(map(len, lines(deployed))) <= 210


def test_a_console_that_is_empty_or_forbidden_is_said_to_be(
    deployed: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.launch()
    console(deployed, monkeypatch, "")
    assert shown(lines(deployed))[0] == "nothing yet"
    asked: list[bool] = []

    def refuse(code: str) -> Callable[..., None]:
        def answer(params: dict[str, Any], **_: Any) -> None:
            asked.append(params.get("Latest", False))
            if code != "UnsupportedOperation" or params.get("Latest"):
                raise ClientError({"Error": {"Code": code, "Message": ""}}, "GetConsoleOutput")

        return answer

    events = deployed.aws.client("ec2").meta.events
    for code, expected, calls in (
        ("UnauthorizedOperation", "unknown: EC2 refused: UnauthorizedOperation", [True]),
        ("UnsupportedOperation", "nothing yet", [True, False]),
    ):
        asked.clear()
        handler = refuse(code)
        events.register("before-parameter-build.ec2.GetConsoleOutput", handler)
        assert shown(lines(deployed))[0] == expected
        assert asked == calls
        events.unregister("before-parameter-build.ec2.GetConsoleOutput", handler)


def test_the_console_of_a_host_that_reports_is_not_asked_for(
    deployed: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = deployed.launch()
    console(deployed, monkeypatch, "the console")
    now = datetime.now(UTC) + timedelta(seconds=2)  # after the launch
    reported(deployed, instance, now)
    assert "  the console" in lines(deployed)  # not ready: no handler can reach it
    put(deployed, f"system/hosts/{HOST}{instance}/ready.json", "{}")
    assert "  the console" not in lines(deployed)
    reported(deployed, instance, now - timedelta(hours=1))  # silent
    assert "  the console" in lines(deployed)
    deployed.aws.client("ec2").stop_instances(InstanceIds=[instance])
    assert "  the console" not in lines(deployed)


def test_a_host_that_is_gone_is_not_shown(deployed: Cloud) -> None:
    deployed.aws.client("ec2").terminate_instances(InstanceIds=[deployed.launch()])
    assert "host      none; the next job launches one" in lines(deployed)


def test_every_host_is_shown(deployed: Cloud) -> None:
    found = {deployed.launch() for _ in range(3)}
    assert {line.split()[1] for line in lines(deployed) if line.startswith("host ")} == {
        f"{one}:" for one in found
    }


def test_queues_and_waiting_time(deployed: Cloud) -> None:
    sqs = deployed.aws.client("sqs")
    for queue, delay in (("jobs", 0), ("jobs", 600), ("jobs-dead", 0)):
        url = sqs.get_queue_url(QueueName=f"{NAME}-{queue}")["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="x", DelaySeconds=delay)
    metric = {
        "MetricName": "OldestWaitingSeconds",
        "Dimensions": [{"Name": "service", "Value": "cxr-inbox"}],
        "Timestamp": datetime.now(UTC) - timedelta(minutes=2),
        "Value": 95.0,
    }
    deployed.aws.client("cloudwatch").put_metric_data(Namespace="CXRInbox", MetricData=[metric])
    said = lines(deployed)
    assert "jobs      1 waiting, 0 at work, 1 to come again; the oldest has waited 95 s" in said
    assert "dead      1 jobs, 0 verdicts not written to the worklist" in said


def test_the_last_verdicts_are_shown_and_no_preview(deployed: Cloud) -> None:
    index = wiring.make_dynamo_index(Settings(stack=NAME))
    store = wiring.open_bucket(BUCKET)
    for number in range(7):
        put(deployed, f"outbox/{number}.jpeg.json", verdict(f"inbox/{number}.jpeg"))
        record_verdict(f"outbox/{number}.jpeg.json", store, index)
    index.wait(["inbox/waits.jpeg"], datetime.now(UTC))
    put(deployed, "outbox/6.jpeg.json", "no verdict")
    deployed.aws.client("s3").delete_object(Bucket=BUCKET, Key="outbox/5.jpeg.json")
    said = lines(deployed)
    shown = [line.strip().partition("  ")[2] for line in said[said.index("verdicts") + 1 :]]
    assert shown[:2] == ["outbox/6.jpeg.json: unreadable", "outbox/5.jpeg.json: deleted"]
    assert shown[2:] == [
        f"inbox/{number}.jpeg: rejected, empty: The file is empty. Export it again." for number in (4, 3, 2)
    ]


def test_a_release_that_the_functions_do_not_have_is_shown(deployed: Cloud) -> None:
    assert not any("the functions have" in line for line in lines(deployed))
    other = f"3-{'0' * 64}\n".encode()
    deployed.aws.client("s3").put_object(Bucket=ARTIFACTS, Key=CURRENT, Body=other)
    said = "\n".join(lines(deployed))
    assert "release   3-000000" in said
    assert re.search(r"the functions have release 2-\w+: `cxr deploy` was interrupted, run it again", said)


def test_destroy_removes_a_stack_that_was_only_planned(cloud: Cloud) -> None:
    client = cloud.aws.client("cloudformation")
    client.create_change_set(
        StackName=NAME, ChangeSetName="cxr-1", ChangeSetType="CREATE", TemplateBody='{"Resources": {}}'
    )
    destroy_stack(cloud.stack, cloud.aws, cloud.fleet, False, cloud.display)
    assert client.list_stacks(StackStatusFilter=["REVIEW_IN_PROGRESS"])["StackSummaries"] == []


def test_destroy_goes_on_where_it_was_interrupted(deployed: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    def begin(*_: object, **__: object) -> None:
        deployed.pretend("DELETE_IN_PROGRESS")

    with monkeypatch.context() as patch:
        patch.setattr(CloudFormationBackend, "delete_stack", begin)
        deployed.sleep = interrupt
        with pytest.raises(StackGoesOn, match="run the same command again"):
            destroy_stack(deployed.stack, deployed.aws, deployed.fleet, False, deployed.display)
    state = deployed.stack.read()
    assert state is not None
    assert state.status == "DELETE_IN_PROGRESS"
    destroy_stack(deployed.stack, deployed.aws, deployed.fleet, False, deployed.display)
    assert deployed.stack.read() is None


def test_destroy_keeps_the_x_rays(deployed: Cloud) -> None:
    host = deployed.launch()
    put(deployed, "inbox/a.jpeg", "x")
    put(deployed, "outbox/a.jpeg.json", "{}")
    deployed.aws.client("s3").put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration=_own_notification(deployed)
    )
    destroy_stack(deployed.stack, deployed.aws, deployed.fleet, False, deployed.display)
    assert deployed.stack.read() is None
    assert deployed.names() == ["inbox/a.jpeg", "outbox/a.jpeg.json"]
    found = deployed.aws.client("ec2").describe_instances(InstanceIds=[host])
    assert found["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"
    assert [bucket["Name"] for bucket in deployed.aws.client("s3").list_buckets()["Buckets"]] == [BUCKET]
    left = deployed.aws.client("s3").get_bucket_notification_configuration(Bucket=BUCKET)
    assert "QueueConfigurations" not in left
    destroy_stack(deployed.stack, deployed.aws, deployed.fleet, False, deployed.display)
    assert "there is no stack cxr-inbox" in deployed.output.getvalue()


def test_destroy_everything_leaves_no_version_of_anything(deployed: Cloud) -> None:
    s3 = deployed.aws.client("s3")
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    for content in ("old", "new"):
        put(deployed, "inbox/a.jpeg", content)
    s3.delete_object(Bucket=BUCKET, Key="inbox/a.jpeg")
    destroy_stack(deployed.stack, deployed.aws, deployed.fleet, True, deployed.display)
    assert s3.list_buckets()["Buckets"] == []


def test_destroy_leaves_what_others_have_in_a_bucket(cloud: Cloud) -> None:
    s3 = cloud.aws.client("s3")
    s3.create_bucket(Bucket="department")
    s3.put_object(Bucket="department", Key="billing/1", Body=b"x")
    s3.put_object(Bucket="department", Key="inbox/a.jpeg", Body=b"x")
    cloud.deploy(existing_bucket="department")
    destroy_stack(cloud.stack, cloud.aws, cloud.fleet, True, cloud.display)
    assert cloud.names("department") == ["billing/1"]
    assert "the bucket department stays" in cloud.output.getvalue()


def invoke(*arguments: str, answer: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments, input=answer)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


@pytest.mark.parametrize("key", ["inbox/a.jpeg", "outbox/a.jpeg.json", "notes.txt"])
def test_what_no_deploy_wrote_into_the_artifact_bucket_stays(deployed: Cloud, key: str) -> None:
    s3 = deployed.aws.client("s3")
    s3.put_object(Bucket=ARTIFACTS, Key=key, Body=b"an X-ray")
    destroy_stack(deployed.stack, deployed.aws, deployed.fleet, False, deployed.display)
    assert deployed.names(ARTIFACTS) == [key]
    assert f"the artifact bucket {ARTIFACTS} stays" in deployed.said()
    s3.delete_object(Bucket=ARTIFACTS, Key=key)  # which leaves its versions
    destroy_stack(deployed.stack, deployed.aws, deployed.fleet, False, deployed.display)
    assert s3.list_object_versions(Bucket=ARTIFACTS)["Versions"][0]["Key"] == key


def test_the_commands_from_nothing_to_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "source_tree", lambda: cloud.folder)
    monkeypatch.setattr(release, "build", lambda _, *architectures: cloud.build(*architectures))
    with pytest.raises(StackError, match="create it with `cxr deploy`"):
        invoke("status")
    code, said = invoke("deploy", answer="n\n")
    assert code == 1
    assert "Create the stack cxr-inbox in us-east-1, account 123456789012" in said
    assert "at rest: about $" in said
    assert cloud.stack.read() is None
    code, said = invoke("deploy", "--yes", "--idle-minutes", "9")
    assert code == 0
    assert f"Drop chest X-rays into s3://{BUCKET}/inbox/\n" in said
    assert f"cxr up --bucket {BUCKET} --stack cxr-inbox\n" in said
    assert "Update the stack" in invoke("deploy", "--yes")[1]
    code, said = invoke("status")
    assert code == 0
    assert "verdicts" in said
    code, said = invoke("destroy", answer="n\n")
    assert code == 1
    assert "stay." in said
    assert cloud.stack.read() is not None
    code, said = invoke("destroy", "--everything", "--yes")
    assert code == 0
    assert "are deleted, every version of them" in said
    assert cloud.stack.read() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deploy_that_is_stopped_says_what_goes_on(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(release, "source_tree", lambda: cloud.folder)
    monkeypatch.setattr(release, "build", lambda _, *architectures: cloud.build(*architectures))
    monkeypatch.setattr(CloudFormationStack, "_settled", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with pytest.raises(StackGoesOn, match=r"^interrupted\. CloudFormation goes on .* run the same command"):
        invoke("deploy", "--yes")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("command", ["deploy", "status", "destroy"])
@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (("AWS_REGION", "AWS_DEFAULT_REGION"), "no AWS region: name one with --region"),
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "no AWS credentials: run `aws configure`"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    command: str, missing: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "source_tree", lambda: tmp_path)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    for name in ("AWS_PROFILE", *missing):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=reason):
        invoke(command, "--yes") if command != "status" else invoke(command)


def test_what_aws_refuses_is_one_sentence(deployed: Cloud) -> None:
    deployed.aws.client("dynamodb").delete_table(TableName=f"{NAME}-index")
    with pytest.raises(CxrError, match="the worklist's table refused: ResourceNotFoundException"):
        invoke("status")


def _own_notification(cloud: Cloud) -> dict[str, object]:
    state = cloud.stack.read()
    assert state is not None
    entry = {"QueueArn": state.outputs["JobsQueueArn"], "Events": ["s3:ObjectCreated:*"]}
    return {"QueueConfigurations": [entry]}
