"""`cxr deploy`: the order of its steps, repeated deploys, and earlier stacks."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto.cloudformation.models import CloudFormationBackend

from ec2_runner.reach.fleet import Fleet
from ec2_runner.stack import deploy
from ec2_runner.stack.cloudformation import CloudFormationStack
from ec2_runner.stack.deploy import DeployOptions, make_plan
from ec2_runner.stack.notifications import add_notifications, remove_notifications
from ec2_runner.stack.release import MANIFEST, Architecture, Bundle
from ec2_runner.stack.upload import CURRENT, OLD_RELEASES
from pipeline.errors import StackError, StackGoesOn, StoreError, UsageError
from tests.support import stacks
from tests.support.stacks import ARTIFACTS, BUCKET, NAME, REGION, Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with stacks.cloud(tmp_path) as made:
        yield made


def changes(cloud: Cloud) -> list[str]:
    """Return the writes, in order."""
    return [call for call in cloud.calls if call.startswith(("Put", "CreateChangeSet"))]


def release(cloud: Cloud) -> str:
    """Return the release that the stack's launch template names."""
    state = cloud.stack.read()
    assert state is not None
    return state.parameters["Release"]


def current(cloud: Cloud) -> str:
    """Return the number of the release that hosts install."""
    return cloud.text(CURRENT, ARTIFACTS).partition("-")[0]


def test_a_new_stack_takes_jobs_only_when_its_release_is_there(cloud: Cloud) -> None:
    cloud.deploy()
    calls, place = changes(cloud), f"releases/{release(cloud)}/"
    order = [
        "CreateChangeSet false",
        f"PutObject {place}wheelhouse/cxr_inbox-0.1-py3-none-any.whl",
        f"PutObject {place}{MANIFEST}",
        f"PutObject {CURRENT}",
        "CreateChangeSet true",
    ]
    assert sorted(order, key=calls.index) == order
    state = cloud.stack.read()
    assert state is not None
    assert state.outputs["EventMapping"] == "true"
    assert state.parameters["BucketName"] == BUCKET
    assert state.parameters["Release"] == release(cloud)
    assert cloud.text(CURRENT, ARTIFACTS) == f"{release(cloud)}\n"
    assert "uploading the release" in cloud.output.getvalue()
    assert not any(name.startswith("system/") for name in cloud.names())


def test_the_artifact_bucket_is_closed(cloud: Cloud) -> None:
    cloud.deploy()
    s3 = cloud.aws.client("s3")
    closed = s3.get_public_access_block(Bucket=ARTIFACTS)["PublicAccessBlockConfiguration"]
    assert set(closed.values()) == {True}
    assert len(closed) == 4
    assert s3.get_bucket_versioning(Bucket=ARTIFACTS)["Status"] == "Enabled"
    (rule,) = s3.get_bucket_encryption(Bucket=ARTIFACTS)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    owner = s3.get_bucket_ownership_controls(Bucket=ARTIFACTS)["OwnershipControls"]
    assert owner == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    denied = json.loads(s3.get_bucket_policy(Bucket=ARTIFACTS)["Policy"])["Statement"]
    assert {found["Effect"] for found in denied} == {"Deny"}
    assert {"Bool": {"aws:SecureTransport": "false"}} in [found["Condition"] for found in denied]
    assert all(
        found["Resource"] == [f"arn:aws:s3:::{ARTIFACTS}", f"arn:aws:s3:::{ARTIFACTS}/*"] for found in denied
    )
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=ARTIFACTS)["Rules"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    assert "Days" not in rule.get("Expiration", {})  # the current release may be old


def test_an_artifact_bucket_of_another_account_is_not_used(cloud: Cloud) -> None:
    """Its name can be guessed, and whoever has it would decide what hosts run."""

    def forbid(params: dict[str, Any], **_: Any) -> None:
        if params["Bucket"] == ARTIFACTS:
            assert params["ExpectedBucketOwner"] == stacks.ACCOUNT
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    cloud.aws.client("s3").meta.events.register("before-parameter-build.s3.HeadBucket", forbid)
    with pytest.raises(UsageError, match=ARTIFACTS):
        cloud.deploy()
    assert not any(call.startswith("PutObject") for call in cloud.calls)


def test_a_deploy_keeps_this_release_and_the_one_before(cloud: Cloud) -> None:
    places = []
    cloud.deploy()
    cloud.aws.client("s3").put_object(Bucket=ARTIFACTS, Key="notes/of-others", Body=b"x")
    for number in (2, 3, 4):
        cloud.deploy(partial(cloud.build, number=number))
        places.append(f"releases/{release(cloud)}/")
    names = cloud.names(ARTIFACTS)
    assert "notes/of-others" in names
    assert not any(name.startswith(places[0]) for name in names)
    for place in places[1:]:
        assert sum(name.startswith(place) for name in names) == 3
    assert sum(name.startswith(("lambda/", "template/")) for name in names) == 2
    found = cloud.aws.client("s3").list_object_versions(Bucket=ARTIFACTS, Prefix=places[0])
    assert len(found["Versions"]) == 3  # for 30 days


def test_the_same_number_built_again_leaves_the_files_of_the_first(cloud: Cloud) -> None:
    """A rollback names the earlier release, so its files must not have been written over."""
    cloud.deploy()
    first = release(cloud)
    cloud.deploy(lambda hosts, functions: cloud.build("arm64", functions))
    assert release(cloud) != first
    assert cloud.text(f"releases/{first}/host/install.sh", ARTIFACTS) == "host/install.sh x86_64 x86_64 2"


def old_stack(cloud: Cloud) -> str:
    """Make a stack whose releases lie in the bucket of X-rays, as earlier ones did; return its host."""
    cloud.deploy()
    s3 = cloud.aws.client("s3")
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    for name in ("2/host/install.sh", "current", "current"):
        s3.put_object(Bucket=BUCKET, Key=f"{OLD_RELEASES}{name}", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="system/hosts/A:i-1/ready.json", Body=b"x")
    return cloud.launch()


def test_hosts_of_an_older_stack_are_ended_and_its_releases_deleted(cloud: Cloud) -> None:
    host = old_stack(cloud)
    cloud.deploy()
    assert _state(cloud, host) in ("shutting-down", "terminated")
    assert f"ended the host {host}: the next one takes its releases" in cloud.output.getvalue()
    assert cloud.names() == ["system/hosts/A:i-1/ready.json"]
    found = cloud.aws.client("s3").list_object_versions(Bucket=BUCKET, Prefix=OLD_RELEASES)
    assert "Versions" not in found
    host = cloud.launch()
    cloud.deploy()
    assert _state(cloud, host) == "running"


def test_an_older_stack_that_cannot_be_updated_keeps_its_hosts_and_releases(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = old_stack(cloud)

    def refuse(*_: object) -> None:
        raise StackError("the stack did not take it")

    with monkeypatch.context() as context:
        context.setattr(CloudFormationStack, "apply", refuse)
        with pytest.raises(StackError):
            cloud.deploy()
    assert _state(cloud, host) == "running"
    assert f"{OLD_RELEASES}current" in cloud.names()
    with monkeypatch.context() as context:  # a connection that is lost while hosts end
        context.setattr(Fleet, "terminate", refuse)
        with pytest.raises(StackError):
            cloud.deploy()
    cloud.deploy()
    assert _state(cloud, host) in ("shutting-down", "terminated")


def test_a_failed_update_leaves_hosts_the_release_of_the_functions(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.deploy()
    before = cloud.text(CURRENT, ARTIFACTS)

    def refuse(*_: object) -> None:
        raise StackError("the stack did not take it")

    monkeypatch.setattr(CloudFormationStack, "apply", refuse)
    with pytest.raises(StackError):
        cloud.deploy(partial(cloud.build, number=3))
    assert before.startswith("2-")
    assert cloud.text(CURRENT, ARTIFACTS) == before


class Operation:
    """Hold an update of the stack in the state UPDATE_IN_PROGRESS until a test ends it."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cloud, self._patch, self._real = cloud, monkeypatch, CloudFormationBackend.execute_change_set
        monkeypatch.setattr(
            CloudFormationBackend,
            "execute_change_set",
            lambda backend, **request: self._begin(backend, **request),
        )

    def _begin(self, backend: Any, **request: Any) -> None:
        self._end = partial(self._real, backend, **request)
        backend.get_stack(NAME)._add_stack_event("UPDATE_IN_PROGRESS")
        self._cloud.pretend("UPDATE_IN_PROGRESS")

    def roll_back(self, _: float = 0) -> None:
        self._patch.setattr(CloudFormationBackend, "execute_change_set", self._real)
        self._cloud.pretend("UPDATE_ROLLBACK_COMPLETE")

    def complete(self, _: float = 0) -> None:
        self._patch.setattr(CloudFormationBackend, "execute_change_set", self._real)
        self._end()


@pytest.fixture
def operation(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Operation:
    cloud.deploy()
    return Operation(cloud, monkeypatch)


def stop_watching(cloud: Cloud, error: BaseException) -> None:
    def fail(_: float) -> None:
        raise error

    cloud.sleep = fail


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("CloudFormation did not answer: X")])
def test_an_interruption_leaves_the_release_of_the_update_that_goes_on(
    cloud: Cloud, operation: Operation, error: BaseException
) -> None:
    stop_watching(cloud, error)
    with pytest.raises(StackGoesOn, match=r"CloudFormation goes on with the stack cxr-inbox: run the same"):
        cloud.deploy(partial(cloud.build, number=3))
    assert current(cloud) == "3"
    cloud.sleep = operation.complete  # while the same command waits
    cloud.deploy(partial(cloud.build, number=3))
    assert "waiting: the stack is in UPDATE_IN_PROGRESS" in cloud.output.getvalue()
    state = cloud.stack.read()
    assert state is not None
    assert state.outputs["Release"] == cloud.text(CURRENT, ARTIFACTS).strip()
    assert current(cloud) == "3"


def test_an_interrupted_creation_is_resumed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CloudFormationStack, "_settled", interrupt)
        with pytest.raises(StackGoesOn, match="interrupted"):
            cloud.deploy()
    state = cloud.stack.read()
    assert state is not None
    assert (state.status, state.outputs["EventMapping"]) == ("CREATE_COMPLETE", "false")
    cloud.deploy()
    state = cloud.stack.read()
    assert state is not None
    assert (state.outputs["EventMapping"], current(cloud)) == ("true", "2")


def test_an_update_that_is_seen_rolled_back_takes_the_release_back(
    cloud: Cloud, operation: Operation
) -> None:
    cloud.sleep = operation.roll_back
    with pytest.raises(StackError, match="UPDATE_ROLLBACK_COMPLETE"):
        cloud.deploy(partial(cloud.build, number=3))
    assert current(cloud) == "2"


def test_a_rollback_that_nobody_saw_takes_the_release_back_at_the_next_deploy(
    cloud: Cloud, operation: Operation
) -> None:
    stop_watching(cloud, KeyboardInterrupt())
    with pytest.raises(StackGoesOn):
        cloud.deploy(partial(cloud.build, number=3))
    operation.roll_back()

    def fail(*_: object) -> Bundle:
        raise StackError("no network")

    with pytest.raises(StackError, match="no network"):
        cloud.deploy(fail)
    assert current(cloud) == "2"
    cloud.deploy(partial(cloud.build, number=3))
    assert current(cloud) == "3"


def test_an_update_that_never_began_takes_the_release_back(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.deploy()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CloudFormationStack, "_has_changes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cloud.deploy(partial(cloud.build, number=3))
    assert current(cloud) == "2"


def test_a_failure_before_the_update_takes_the_release_back(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.aws.client("s3").create_bucket(Bucket="department")
    cloud.deploy(existing_bucket="department")

    def refuse(*_: object) -> None:
        raise StackError("another notification covers inbox/")

    monkeypatch.setattr(deploy, "add_notifications", refuse)
    with pytest.raises(StackError, match="covers"):
        cloud.deploy(partial(cloud.build, number=3))
    assert current(cloud) == "2"


def test_a_lost_connection_is_waited_out(cloud: Cloud, operation: Operation) -> None:
    lost: list[str] = []

    def lose(**_: Any) -> None:
        if lost and len(lost) < 5:
            lost.append("again")
            raise EndpointConnectionError(endpoint_url="https://cloudformation")

    def end(_: float) -> None:
        if lost:
            operation.complete()
        else:
            lost.append("first")

    cloud.aws.client("cloudformation").meta.events.register(
        "before-parameter-build.cloudformation.DescribeStacks", lose
    )
    cloud.sleep = end
    cloud.deploy(partial(cloud.build, number=3))
    assert current(cloud) == "3"
    assert "did not answer: EndpointConnectionError; trying again" in cloud.output.getvalue()


def test_an_interrupted_change_of_the_type_still_ends_the_hosts(cloud: Cloud, operation: Operation) -> None:
    host = cloud.launch()
    stop_watching(cloud, KeyboardInterrupt())
    with pytest.raises(StackGoesOn):
        cloud.deploy(instance_type="c7i.large")
    assert _state(cloud, host) == "running"
    operation.complete()
    cloud.deploy(instance_type="c7i.large")
    assert _state(cloud, host) in ("shutting-down", "terminated")


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_FAILED", "DELETE_FAILED", "ROLLBACK_FAILED"])
def test_a_creation_that_failed_is_begun_anew(cloud: Cloud, status: str) -> None:
    cloud.deploy()
    cloud.aws.client("s3").delete_object(Bucket=BUCKET, Key=CURRENT)
    cloud.pretend(status)
    plan = cloud.deploy()
    assert plan.before is None
    assert any(status in line for line in plan.notes)
    state = cloud.stack.read()
    assert state is not None
    assert state.is_sound


def test_looking_changes_nothing(cloud: Cloud) -> None:
    cloud.deploy()
    cloud.pretend("ROLLBACK_COMPLETE")
    make_plan(DeployOptions(NAME), cloud.aws, cloud.stack)
    state = cloud.stack.read()
    assert state is not None
    assert state.status == "ROLLBACK_COMPLETE"


def test_an_existing_stack_gets_the_release_before_its_functions(cloud: Cloud) -> None:
    cloud.deploy(email="a@example.org", idle_minutes=7)
    cloud.calls.clear()
    cloud.deploy(partial(cloud.build, number=3))
    calls = changes(cloud)
    assert [call for call in calls if "ChangeSet" in call] == ["CreateChangeSet true"]
    assert calls.index(f"PutObject {CURRENT}") < calls.index("CreateChangeSet true")
    assert cloud.text(CURRENT, ARTIFACTS).startswith("3-")
    state = cloud.stack.read()
    assert state is not None
    assert (state.parameters["NotificationEmail"], state.outputs["IdleMinutes"]) == ("a@example.org", "7")


def test_what_is_there_is_not_uploaded_again(cloud: Cloud) -> None:
    cloud.deploy()
    cloud.calls.clear()
    cloud.deploy()
    assert [call for call in changes(cloud) if call.startswith("PutObject")] == [f"PutObject {CURRENT}"]


def test_the_template_names_the_package_that_was_uploaded(cloud: Cloud) -> None:
    cloud.deploy()
    (package,) = [name for name in cloud.names(ARTIFACTS) if name.startswith("lambda/")]
    (template,) = [name for name in cloud.names(ARTIFACTS) if name.startswith("template/")]
    assert cloud.text(template, ARTIFACTS).startswith(f"# CodeUri: s3://{ARTIFACTS}/{package}\n")


def test_a_failure_in_the_middle_is_mended_by_the_same_command(cloud: Cloud) -> None:
    failed: list[str] = []

    def break_once(params: dict[str, Any], **_: Any) -> None:
        if params["Key"] == CURRENT and not failed:
            failed.append(CURRENT)
            raise ClientError({"Error": {"Code": "SlowDown", "Message": ""}}, "PutObject")

    cloud.aws.client("s3").meta.events.register("before-parameter-build.s3.PutObject", break_once)
    with pytest.raises(ClientError):
        cloud.deploy()
    state = cloud.stack.read()
    assert state is not None
    assert state.outputs["EventMapping"] == "false"
    cloud.deploy()
    state = cloud.stack.read()
    assert state is not None
    assert state.outputs["EventMapping"] == "true"


def test_a_bucket_that_was_there_keeps_its_notifications(cloud: Cloud) -> None:
    s3 = cloud.aws.client("s3")
    s3.create_bucket(Bucket="department")
    s3.put_bucket_notification_configuration(Bucket="department", NotificationConfiguration=_foreign(cloud))
    before = _queues(s3)
    cloud.deploy(existing_bucket="department")
    cloud.deploy()
    after = _queues(s3)
    jobs, verdicts = (
        f"arn:aws:sqs:{REGION}:{stacks.ACCOUNT}:cxr-inbox-{name}" for name in ("jobs", "verdicts")
    )
    assert after == {**before, jobs: "inbox/", verdicts: "outbox/"}
    assert "TopicConfigurations" in s3.get_bucket_notification_configuration(Bucket="department")
    remove_notifications(s3, "department", {jobs, verdicts})
    assert _queues(s3) == before


def test_a_notification_of_others_about_the_inbox_is_named(cloud: Cloud) -> None:
    class Refusing:
        """Refuse overlapping prefixes, as S3 does; moto accepts them."""

        def get_bucket_notification_configuration(self, **_: Any) -> dict[str, Any]:
            return {}

        def put_bucket_notification_configuration(self, **_: Any) -> None:
            said = {"Code": "InvalidArgument", "Message": "Configuration is ambiguously defined."}
            raise ClientError({"Error": said}, "PutBucketNotificationConfiguration")

    with pytest.raises(StackError, match=r"ambiguously defined.*use another bucket"):
        add_notifications(Refusing(), "department", "arn:a", "arn:b")


def test_a_bucket_that_a_stack_left_is_taken_up_again(cloud: Cloud) -> None:
    cloud.deploy()
    cloud.aws.client("s3").put_object(Bucket=BUCKET, Key="inbox/a.jpeg", Body=b"x")
    cloud.stack.delete()
    plan = cloud.deploy()
    assert not plan.makes_bucket
    assert "inbox/a.jpeg" in cloud.names()
    assert set(_queues(cloud.aws.client("s3"), BUCKET).values()) == {"inbox/", "outbox/"}


def test_a_bucket_that_was_there_is_told_to_keep_its_settings(cloud: Cloud) -> None:
    cloud.aws.client("s3").create_bucket(Bucket=BUCKET)
    for _ in range(2):  # a new stack, and an update
        plan = cloud.deploy()
        assert plan.notes == (
            f"the bucket {BUCKET} is there already and keeps its settings: RetentionDays, PreviewDays,"
            " PageOrigins do not apply to it",
        )


def test_a_bucket_of_the_stack_takes_its_settings(cloud: Cloud) -> None:
    assert cloud.deploy(retention_days=30).notes == ()
    assert cloud.deploy(retention_days=60).notes == ()


IGNORED: list[dict[str, Any]] = [
    {"retention_days": 30},
    {"more": {"PreviewDays": "7"}},
    {"more": {"PageOrigins": "http://127.0.0.1:8080"}},
]


@pytest.mark.parametrize("options", IGNORED)
def test_an_option_that_a_bucket_would_ignore_is_refused(cloud: Cloud, options: dict[str, Any]) -> None:
    cloud.aws.client("s3").create_bucket(Bucket=BUCKET)
    with pytest.raises(UsageError, match=r"would have no effect: the bucket .* leave out"):
        cloud.deploy(**options)
    assert cloud.stack.read() is None
    cloud.deploy()
    with pytest.raises(UsageError, match=r"would have no effect"):
        cloud.deploy(**options)


@pytest.mark.parametrize("options", IGNORED)
def test_an_option_that_a_bucket_has_already_is_fine(cloud: Cloud, options: dict[str, Any]) -> None:
    """Deploy as after `cxr destroy`, with the same cxr.toml: the bucket kept the stack's rules."""
    s3 = cloud.aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    days = {"inbox/": 30, "outbox/": 30, "outbox/.previews/": 7}
    rules: list[Any] = [
        {"ID": prefix, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": count}}
        for prefix, count in days.items()
    ]
    rules.append(
        {
            "ID": "old",
            "Status": "Enabled",
            "Prefix": "",
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
        }
    )
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": rules})
    page: Any = {"AllowedMethods": ["POST"], "AllowedOrigins": ["http://127.0.0.1:8080", "http://other"]}
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [page]})
    cloud.deploy(**options)


def test_rules_that_may_not_be_read_count_as_others(cloud: Cloud) -> None:
    s3 = cloud.aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)

    def forbid(**_: Any) -> None:
        raise ClientError(
            {"Error": {"Code": "AccessDenied", "Message": ""}}, "GetBucketLifecycleConfiguration"
        )

    s3.meta.events.register("before-parameter-build.s3.GetBucketLifecycleConfiguration", forbid)
    with pytest.raises(UsageError, match="would have no effect"):
        cloud.deploy(retention_days=30)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("InstanceType", "--instance-type"),
        ("RetentionDays", "--retention-days"),
        ("CreateBucket", "--existing-bucket"),
        ("EventMapping", "deploy sets it"),
    ],
)
def test_a_parameter_with_an_option_of_its_own_is_refused(cloud: Cloud, name: str, instead: str) -> None:
    with pytest.raises(UsageError, match=f"the parameter {name} cannot .*{instead}"):
        cloud.deploy(more={name: "x"})


def test_another_instance_type_ends_the_hosts_of_the_old_one(cloud: Cloud) -> None:
    cloud.deploy()
    host = cloud.launch()
    cloud.deploy()
    assert _state(cloud, host) == "running"
    built: list[str] = []

    def build(hosts: Architecture, functions: Architecture) -> Bundle:
        built.append(hosts)
        return cloud.build(hosts, functions)

    cloud.deploy(build, instance_type="c7g.large")
    assert built == ["arm64"]
    assert _state(cloud, host) in ("shutting-down", "terminated")
    assert f"ended the host {host}" in cloud.output.getvalue()


def test_another_network_ends_the_hosts_first_while_nobody_launches_one(cloud: Cloud) -> None:
    """CloudFormation cannot delete a subnet while an instance is in it, and would leave the old network."""
    cloud.deploy()
    host = cloud.launch()
    cloud.deploy(more={"NetworkPrefix": "10.97"})
    assert _state(cloud, host) == "running"
    cloud.calls.clear()
    cloud.deploy(more={"NetworkPrefix": "10.50"})
    assert _state(cloud, host) == "terminated"
    changes = [call for call in cloud.calls if call.startswith("CreateChangeSet")]
    assert changes == ["CreateChangeSet false", "CreateChangeSet true"]
    state = cloud.stack.read()
    assert state is not None
    assert (state.parameters["NetworkPrefix"], state.parameters["EventMapping"]) == ("10.50", "true")


def test_a_change_of_the_network_is_told_before(cloud: Cloud) -> None:
    cloud.deploy()
    same = make_plan(DeployOptions(NAME, more={"NetworkPrefix": "10.97"}), cloud.aws, cloud.stack)
    other = make_plan(DeployOptions(NAME, more={"NetworkPrefix": "10.50"}), cloud.aws, cloud.stack)
    assert "deliveries" not in str(same.notes)
    assert "the deliveries stop and all hosts are ended first" in str(other.notes)


@pytest.mark.parametrize(
    ("error", "delivers", "said"),
    [
        (StackError("these hosts do not end: i-1"), "true", "deliveries go on in the old one"),
        (KeyboardInterrupt(), "false", "X-rays wait in it until `cxr deploy` succeeds"),
    ],
)
def test_a_change_of_the_network_that_breaks_off_says_what_becomes_of_jobs(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, error: BaseException, delivers: str, said: str
) -> None:
    cloud.deploy()

    def fail(_: Fleet) -> None:
        raise error

    monkeypatch.setattr(deploy, "end_hosts", fail)
    with pytest.raises(type(error)):
        cloud.deploy(more={"NetworkPrefix": "10.50"})
    state = cloud.stack.read()
    assert state is not None
    assert (state.parameters["NetworkPrefix"], state.parameters["EventMapping"]) == ("10.97", delivers)
    assert said in cloud.said()
    monkeypatch.undo()


@pytest.mark.parametrize("fails_always", [False, True])
def test_a_new_network_that_is_rolled_back_leaves_the_deliveries_of_the_old_one(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, fails_always: bool
) -> None:
    cloud.deploy()
    apply = CloudFormationStack.apply

    def fail(stack: CloudFormationStack, template: str, changes: dict[str, str]) -> Any:
        if changes["EventMapping"] == "true" and (fails_always or "NetworkPrefix" in changes):
            raise StackError("the stack is in UPDATE_ROLLBACK_COMPLETE: Network: too many")
        return apply(stack, template, changes)

    monkeypatch.setattr(CloudFormationStack, "apply", fail)
    with pytest.raises(StackError, match="too many"):
        cloud.deploy(more={"NetworkPrefix": "10.50"})
    state = cloud.stack.read()
    assert state is not None
    assert state.parameters["EventMapping"] == str(not fails_always).lower()
    assert ("until `cxr deploy` succeeds" in cloud.said()) == fails_always


def test_a_stop_of_the_deliveries_whose_end_is_not_seen_is_told(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.deploy()

    def goes_on(*_: object) -> None:
        raise StackGoesOn("interrupted")

    monkeypatch.setattr(CloudFormationStack, "apply", goes_on)
    with pytest.raises(StackGoesOn):
        cloud.deploy(more={"NetworkPrefix": "10.50"})
    assert "until `cxr deploy` succeeds" in cloud.said()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bucket": "a", "existing_bucket": "b"}, "name only one"),
        ({"existing_bucket": "not-there"}, "there is no bucket not-there"),
        ({"bucket": "mine"}, "--existing-bucket mine"),
        ({"bucket": ARTIFACTS}, "for the releases of a stack"),
        ({"existing_bucket": ARTIFACTS}, "for the releases of a stack"),
        ({"existing_bucket": ARTIFACTS.replace(NAME, "other")}, "for the releases of a stack"),
    ],
)
def test_wrong_buckets_are_refused(cloud: Cloud, options: dict[str, str], reason: str) -> None:
    for bucket in ("mine", ARTIFACTS, ARTIFACTS.replace(NAME, "other")):
        cloud.aws.client("s3").create_bucket(Bucket=bucket)
    with pytest.raises(UsageError, match=reason):
        cloud.deploy(**options)
    assert cloud.stack.read() is None


def test_a_stack_whose_bucket_would_be_anothers_artifact_bucket_is_refused(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match="may not end in -artifacts"):
        make_plan(DeployOptions(f"{NAME}-artifacts"), cloud.aws, cloud.stack)


@pytest.mark.parametrize("options", [{}, {"existing_bucket": BUCKET}, {"bucket": BUCKET}])
def test_a_bucket_in_another_region_is_refused(cloud: Cloud, options: dict[str, str]) -> None:
    """HeadBucket follows the redirect to the other region, and succeeds."""
    cloud.aws.client("s3").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(UsageError, match=r"is in eu-west-1, not in us-east-1.*--region eu-west-1"):
        cloud.deploy(**options)
    assert cloud.stack.read() is None


def test_a_bucket_that_is_forbidden_may_be_ones_own(cloud: Cloud) -> None:
    """HeadBucket answers another account's bucket and a missing permission alike."""

    def forbid(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    cloud.aws.client("s3").meta.events.register("before-parameter-build.s3.HeadBucket", forbid)
    with pytest.raises(UsageError, match=r"another account has it.*--bucket.*lack `s3:ListBucket`"):
        cloud.deploy()


def test_the_functions_package_is_built_for_their_architecture(cloud: Cloud) -> None:
    built: list[tuple[Architecture, Architecture]] = []

    def build(hosts: Architecture, functions: Architecture) -> Bundle:
        built.append((hosts, functions))
        return cloud.build(hosts, functions)

    cloud.deploy(build)
    cloud.deploy(build, more={"FunctionArchitecture": "arm64"})
    cloud.deploy(build)  # it stays
    cloud.deploy(build, more={"FunctionArchitecture": "x86_64"}, instance_type="c7g.large")
    assert built == [("x86_64", "x86_64"), ("x86_64", "arm64"), ("x86_64", "arm64"), ("arm64", "x86_64")]
    with pytest.raises(UsageError, match="FunctionArchitecture=arm: it is x86_64 or arm64"):
        cloud.deploy(build, more={"FunctionArchitecture": "arm"})


def test_the_log_key_is_made_once_and_shown_nowhere(cloud: Cloud) -> None:
    plan = cloud.deploy()
    first = _output(cloud, "LogKey")
    assert len(first) >= 32
    again = cloud.deploy(email="a@example.org")
    assert "LogKey" not in again.parameters  # CloudFormation answers `****`, which must not become the key
    assert _output(cloud, "LogKey") == first
    assert first not in cloud.output.getvalue() + repr(plan)
    cloud.deploy(more={"LogKey": "a key of my own, of some length"})
    assert _output(cloud, "LogKey") == "a key of my own, of some length"


def test_a_stack_of_before_gets_a_log_key(cloud: Cloud) -> None:
    """Its key was in Secrets Manager, and its template had no such parameter."""
    former = {name: part for name, part in stacks.TEMPLATE["Parameters"].items() if name != "LogKey"}
    outputs = {name: part for name, part in stacks.TEMPLATE["Outputs"].items() if name != "LogKey"}
    cloud.aws.client("cloudformation").create_stack(
        StackName=stacks.NAME,
        TemplateBody=json.dumps({**stacks.TEMPLATE, "Parameters": former, "Outputs": outputs}),
        Parameters=[
            {"ParameterKey": "BucketName", "ParameterValue": BUCKET},
            {"ParameterKey": "Release", "ParameterValue": f"1-{'0' * 64}"},
        ],
    )
    cloud.deploy()
    made = _output(cloud, "LogKey")
    assert len(made) >= 32
    cloud.deploy()
    assert _output(cloud, "LogKey") == made


def encrypted(cloud: Cloud, key: str | None, algorithm: Any = "aws:kms") -> None:
    """Make a bucket with default encryption."""
    s3 = cloud.aws.client("s3")
    s3.create_bucket(Bucket="department")
    rule: Any = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
    s3.put_bucket_encryption(
        Bucket="department",
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": rule}]},
    )


KEY = f"arn:aws:kms:{REGION}:{stacks.ACCOUNT}:key/12345678-1234-1234-1234-123456789012"
OTHER = KEY.replace("key/1", "key/2")


def known_key(cloud: Cloud, **more: str) -> None:
    """Have KMS describe every key so."""
    usual = {"KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT"}
    kms: Any = cloud.aws.client("kms")
    kms.describe_key = lambda **_: {"KeyMetadata": {**usual, **more}}


@pytest.mark.parametrize(
    ("key", "found", "reason"),
    [
        ("alias/x-rays", {}, "is not the ARN of a key"),
        (KEY.replace(REGION, "eu-west-1"), {}, "is in eu-west-1, and S3 needs one of the bucket's region"),
        (KEY, {"KeyState": "PendingDeletion"}, "is in the state PendingDeletion"),
        (KEY, {"KeyState": "Disabled"}, "is in the state Disabled"),
        (KEY, {"KeySpec": "RSA_4096"}, r"ENCRYPT_DECRYPT \(RSA_4096\): S3 needs a symmetric"),
        (KEY, {"KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256"}, "S3 needs a symmetric"),
        (KEY, None, "there is no KMS key"),
    ],
)
def test_a_key_with_which_s3_cannot_encrypt_is_refused(
    cloud: Cloud, key: str, found: dict[str, str] | None, reason: str
) -> None:
    if found is not None:
        known_key(cloud, **found)
    with pytest.raises(UsageError, match=reason):
        cloud.deploy(more={"KmsKeyArn": key})
    assert cloud.stack.read() is None


def test_a_key_that_may_not_be_looked_up_stops_nothing(cloud: Cloud) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": ""}}, "DescribeKey")

    kms: Any = cloud.aws.client("kms")
    kms.describe_key = refuse
    plan = make_plan(DeployOptions(NAME, more={"KmsKeyArn": KEY}), cloud.aws, cloud.stack)
    assert f"the KMS key {KEY} was not checked: KMS refused: AccessDenied" in plan.notes[0]


@pytest.mark.parametrize(
    ("key", "given", "advice"),
    [
        (KEY, None, f"add --parameter KmsKeyArn={KEY}$"),
        (KEY, OTHER, f"not by {OTHER}, .*add --parameter KmsKeyArn={KEY}$"),
        ("alias/x-rays", None, "describe-key --key-id alias/x-rays --query"),
        (KEY.replace("key/", "alias/"), None, "describe-key --key-id arn:aws:kms:.*:alias/1"),
        (KEY[-36:], None, f"describe-key --key-id {KEY[-36:]}"),
        (KEY[-36:], OTHER, f"describe-key --key-id {KEY[-36:]}"),
    ],
)
@pytest.mark.parametrize("algorithm", ["aws:kms", "aws:kms:dsse"])
def test_the_key_of_an_existing_bucket_has_to_be_named(
    cloud: Cloud, algorithm: str, key: str, given: str | None, advice: str
) -> None:
    encrypted(cloud, key, algorithm)
    with pytest.raises(UsageError, match=advice):
        cloud.deploy(existing_bucket="department", more={"KmsKeyArn": given} if given else {})
    assert cloud.stack.read() is None


@pytest.mark.parametrize(
    ("key", "given"),
    [
        (KEY, KEY),
        (KEY[-36:], KEY),
        ("alias/x-rays", KEY),
        (None, ""),  # AWS's own key, which everybody may use who may use the bucket
        ("alias/aws/s3", ""),
        (f"arn:aws:kms:{REGION}:{stacks.ACCOUNT}:alias/aws/s3", ""),
    ],
)
def test_a_key_that_the_roles_may_use_is_fine(cloud: Cloud, key: str | None, given: str) -> None:
    encrypted(cloud, key)
    known_key(cloud)
    cloud.deploy(existing_bucket="department", more={"KmsKeyArn": given})
    cloud.deploy()  # it stays
    state = cloud.stack.read()
    assert state is not None
    assert state.parameters["KmsKeyArn"] == given


def test_a_bucket_without_default_encryption_needs_no_key(cloud: Cloud) -> None:
    cloud.aws.client("s3").create_bucket(Bucket="department")
    cloud.deploy(existing_bucket="department")
    encrypted_by_s3 = "AES256"
    cloud.aws.client("s3").delete_bucket_encryption(Bucket="department")
    rule: Any = {"SSEAlgorithm": encrypted_by_s3}
    cloud.aws.client("s3").put_bucket_encryption(
        Bucket="department",
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": rule}]},
    )
    known_key(cloud)
    cloud.deploy(more={"KmsKeyArn": KEY})  # of single objects


def test_the_hosts_are_limited_to_the_addresses_of_s3(cloud: Cloud) -> None:
    def used() -> str:
        state = cloud.stack.read()
        assert state is not None
        return state.parameters["S3PrefixList"]

    name = f"com.amazonaws.{REGION}.s3"
    found = cloud.aws.client("ec2").describe_managed_prefix_lists()["PrefixLists"]
    (ours,) = [one["PrefixListId"] for one in found if one["PrefixListName"] == name]
    cloud.deploy()
    assert used() == ours
    cloud.deploy(more={"S3PrefixList": "pl-0123456789"})
    cloud.deploy()  # it stays
    assert used() == "pl-0123456789"


def image(cloud: Cloud) -> str:
    """Return the image of the stack's hosts."""
    state = cloud.stack.read()
    assert state is not None
    return state.outputs["Image"]


def test_the_image_stays_until_a_new_one_is_asked_for(cloud: Cloud) -> None:
    """Amazon's public parameter names another image every few weeks."""
    first, second = "ami-00000001", "ami-00000002"
    cloud.deploy()
    assert image(cloud) == first
    newer = {"Newest": second}
    cloud.deploy(more=newer)
    assert image(cloud) == first
    assert "there is a newer image of Amazon Linux: `cxr deploy --new-image`" in cloud.said()
    cloud.deploy(new_image=True)
    assert image(cloud) == second
    assert f"have the image {second}; --parameter PinnedAmi={first} returns" in cloud.said()
    cloud.output.truncate(0)
    cloud.deploy()
    assert image(cloud) == second
    assert "image" not in cloud.said()
    cloud.deploy(more={"PinnedAmi": first})
    cloud.deploy()
    assert image(cloud) == first


def test_another_architecture_has_another_image(cloud: Cloud) -> None:
    cloud.deploy()
    cloud.deploy(instance_type="t3.large", more={"Newest": "ami-00000002"})
    assert image(cloud) == "ami-00000001"
    cloud.deploy(instance_type="c7g.large")
    assert image(cloud) == "ami-00000002"


def test_an_image_of_ones_own_is_not_replaced(cloud: Cloud) -> None:
    own = "ami-0000000f"
    cloud.deploy(more={"Ami": own})
    cloud.deploy()
    assert image(cloud) == own
    assert "newer image" not in cloud.said()
    with pytest.raises(UsageError, match=f"an image of your own, {own}: .*--parameter Ami=$"):
        cloud.deploy(new_image=True)
    cloud.deploy(more={"Ami": ""})
    assert image(cloud) == "ami-00000001"
    cloud.deploy(more={"Ami": own})
    assert image(cloud) == own


def test_a_stack_that_named_no_image_takes_the_newest_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.delitem(stacks.TEMPLATE["Outputs"], "Image")
        cloud.deploy()
    cloud.deploy(more={"Newest": "ami-00000002"})
    assert image(cloud) == "ami-00000002"


def test_a_stack_keeps_its_bucket(cloud: Cloud) -> None:
    cloud.deploy()
    with pytest.raises(UsageError, match=f"has the bucket {BUCKET}"):
        cloud.deploy(bucket="another")


def _output(cloud: Cloud, name: str) -> str:
    state = cloud.stack.read()
    assert state is not None
    return state.outputs[name]


def _foreign(cloud: Cloud) -> dict[str, Any]:
    sqs = cloud.aws.client("sqs")
    queue = sqs.create_queue(QueueName="theirs")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    rules = [{"Name": "prefix", "Value": "billing/"}]
    return {
        "QueueConfigurations": [
            {
                "Id": "theirs",
                "QueueArn": arn["QueueArn"],
                "Events": ["s3:ObjectCreated:*"],
                "Filter": {"Key": {"FilterRules": rules}},
            }
        ],
        "TopicConfigurations": [
            {
                "Id": "topic",
                "TopicArn": f"arn:aws:sns:{REGION}:{stacks.ACCOUNT}:t",
                "Events": ["s3:ObjectRemoved:*"],
            }
        ],
    }


def _queues(s3: Any, bucket: str = "department") -> dict[str, str]:
    found = s3.get_bucket_notification_configuration(Bucket=bucket).get("QueueConfigurations", [])
    return {entry["QueueArn"]: entry["Filter"]["Key"]["FilterRules"][0]["Value"] for entry in found}


def _state(cloud: Cloud, host: str) -> str:
    found = cloud.aws.client("ec2").describe_instances(InstanceIds=[host])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])
