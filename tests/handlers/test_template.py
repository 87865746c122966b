"""The template keeps the promises of docs/aws.md."""

import importlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint_file

from ec2_runner.reach.identity import HOSTS
from ec2_runner.stack import cost
from pipeline.aws.names import StackNames
from pipeline.names import PAGES
from pipeline.settings import Settings, load_settings
from tests.support.aws import ROOT, TEMPLATE, as_list, resources, sam, statements, template, user_data

SIX = 6  # times a function's timeout: what AWS advises for the visibility timeout of its queue


def globals_() -> dict[str, Any]:
    return dict(template()["Globals"]["Function"])


@pytest.mark.whole
def test_cfn_lint_has_nothing_to_say() -> None:
    assert [str(match) for match in lint_file(TEMPLATE)] == []


@pytest.mark.whole
def test_sam_takes_it(tmp_path: Path) -> None:
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    command = [sam(), "validate", "--lint", "--template-file", TEMPLATE]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout


def test_the_bucket_is_private_encrypted_versioned_and_kept() -> None:
    ((name, bucket),) = resources("AWS::S3::Bucket").items()
    assert template()["Resources"][name]["DeletionPolicy"] == "RetainExceptOnCreate"
    assert template()["Resources"][name]["UpdateReplacePolicy"] == "Retain"
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    (encryption,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    condition, with_key, without = encryption["ServerSideEncryptionByDefault"]["Fn::If"]
    assert condition == "HasKey"
    assert with_key == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": {"Ref": "KmsKeyArn"}}
    assert without == {"SSEAlgorithm": "AES256"}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    ((name, policy),) = resources("AWS::S3::BucketPolicy").items()
    assert template()["Resources"][name]["DeletionPolicy"] == "RetainExceptOnCreate"  # as long as the bucket
    denied = [(found["Effect"], found["Condition"]) for found in statements(policy["PolicyDocument"])]
    assert ("Deny", {"Bool": {"aws:SecureTransport": "false"}}) in denied
    assert {effect for effect, _ in denied} == {"Deny"}  # whom it lets in, the roles say


def test_former_reports_of_hosts_and_pages_are_deleted_soon_and_nothing_else_is() -> None:
    (bucket,) = resources("AWS::S3::Bucket").values()
    rules = [rule for rule in bucket["LifecycleConfiguration"]["Rules"] if "Fn::If" not in rule]
    kept = {
        rule.get("Prefix", ""): rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
        for rule in rules
        if "NoncurrentVersionExpiration" in rule
    }
    assert kept == {"": 30, HOSTS: 1, PAGES: 1}


def test_the_log_key_is_a_parameter_that_nobody_is_shown() -> None:
    """A secret of Secrets Manager costs money each month, and was as readable in the settings."""
    key = template()["Parameters"]["LogKey"]
    assert key["NoEcho"] is True
    assert "Default" not in key
    assert globals_()["Environment"]["Variables"]["CXR_LOG_KEY"] == {"Ref": "LogKey"}
    assert not resources("AWS::SecretsManager::Secret")
    assert not any(output["Value"] == {"Ref": "LogKey"} for output in template()["Outputs"].values())


def test_the_bucket_tells_the_right_queue() -> None:
    (bucket,) = resources("AWS::S3::Bucket").values()
    told = {}
    for found in bucket["NotificationConfiguration"]["QueueConfigurations"]:
        rules = {rule["Name"]: rule["Value"] for rule in found["Filter"]["S3Key"]["Rules"]}
        told.setdefault(found["Queue"]["Fn::GetAtt"][0], []).append((found["Event"], rules))
    kinds = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*")
    verdicts = {"prefix": "outbox/", "suffix": ".json"}
    assert told["JobsQueue"] == [(kind, {"prefix": "inbox/"}) for kind in kinds]
    assert told["VerdictsQueue"] == [(kind, verdicts) for kind in kinds]
    assert len(told) == 2


def test_only_the_bucket_may_send_to_the_queues() -> None:
    policies = resources("AWS::SQS::QueuePolicy")
    assert len(policies) == 2
    for policy in policies.values():
        (allowed,) = [found for found in statements(policy["PolicyDocument"]) if found["Effect"] == "Allow"]
        assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
        assert allowed["Condition"]["ArnEquals"] == {
            "aws:SourceArn": {"Fn::Sub": "arn:${AWS::Partition}:s3:::${BucketName}"}
        }
        assert allowed["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}


def test_a_job_that_fails_again_and_again_goes_to_the_dead_letters() -> None:
    queues = resources("AWS::SQS::Queue")
    for name, most in (("Jobs", 5), ("Verdicts", 3)):
        redrive = queues[f"{name}Queue"]["RedrivePolicy"]
        assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": [f"{name}DeadQueue", "Arn"]}
        assert redrive["maxReceiveCount"] == most
    assert all(queue["SqsManagedSseEnabled"] is True for queue in queues.values())
    assert all(queue["MessageRetentionPeriod"] == 14 * 86_400 for queue in queues.values())


def test_the_functions_take_from_their_queues() -> None:
    queues, sources = resources("AWS::SQS::Queue"), {}
    for name, function in resources("AWS::Serverless::Function").items():
        for event in function["Events"].values():
            if event["Type"] == "SQS":
                queue = event["Properties"]["Queue"]["Fn::GetAtt"][0]
                sources[name] = queue, event["Properties"]
                timeout = function.get("Timeout", globals_()["Timeout"])
                assert queues[queue]["VisibilityTimeout"] >= SIX * timeout
    assert {name: queue for name, (queue, _) in sources.items()} == {
        "IngestFunction": "JobsQueue",
        "RecordFunction": "VerdictsQueue",
        "DeadLetterFunction": "JobsDeadQueue",
    }
    ingest = sources["IngestFunction"][1]
    assert ingest["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert ingest["BatchSize"] == 32
    assert ingest["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}
    assert ingest["Enabled"] == {"Ref": "EventMapping"}
    assert template()["Parameters"]["EventMapping"]["Default"] == "true"


def test_only_a_function_that_feeds_its_own_queue_may_loop() -> None:
    """Lambda ends such a chain after about 16 calls, unless the function says that it is intended."""
    feeding = set()
    for name, function in resources("AWS::Serverless::Function").items():
        role = resources("AWS::IAM::Role")[function["Role"]["Fn::GetAtt"][0]]
        sends = [
            queue
            for part in role["Policies"]
            for found in statements(part["PolicyDocument"])
            if "sqs:SendMessage" in as_list(found["Action"])
            for queue in as_list(found["Resource"])
        ]
        takes = [event["Properties"].get("Queue") for event in function["Events"].values()]
        if any(queue in sends for queue in takes):
            feeding.add(name)
    loops = {
        name: function["RecursiveLoop"]
        for name, function in resources("AWS::Serverless::Function").items()
        if "RecursiveLoop" in function
    }
    assert feeding == {"IngestFunction"}
    assert loops == dict.fromkeys(feeding, "Allow")
    assert "RecursiveLoop" not in globals_()


def test_the_schedules() -> None:
    functions = resources("AWS::Serverless::Function")
    schedules = {
        name: event["Properties"]["Schedule"]
        for name, function in functions.items()
        for event in function["Events"].values()
        if event["Type"] == "Schedule"
    }
    assert schedules == {"ReconcileFunction": "rate(15 minutes)", "ReapFunction": "rate(5 minutes)"}


@pytest.mark.parametrize("name", sorted(resources("AWS::Serverless::Function")))
def test_a_handler_is_there(name: str) -> None:
    module, _, function = resources("AWS::Serverless::Function")[name]["Handler"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_functions_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = globals_()["Environment"]["Variables"]
    assert {name.removeprefix("CXR_").lower() for name in variables} <= set(Settings.model_fields)
    for name in [name for name in os.environ if name.startswith("CXR_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        made = {"CXR_IDLE_MINUTES": "20", "CXR_MAX_HOSTS": "4", "CXR_SPOT": "true"}.get(name, "x,y")
        monkeypatch.setenv(name, value if isinstance(value, str) else made)
    settings = load_settings()
    assert (settings.max_hosts, settings.spot) == (4, True)
    assert (settings.bucket, settings.host) == ("x,y", "ec2")
    assert settings.subnets == settings.instance_types == ("x", "y")


def test_the_hosts_settings_are_settings() -> None:
    names = {name.lower() for name in re.findall(r"\bCXR_(\w+)=", user_data())}
    assert names <= set(Settings.model_fields)
    assert names >= {"bucket", "artifacts", "host_role_id", "idle_minutes"}  # install.sh needs these


def test_a_host_is_let_in_by_the_endpoint_alone() -> None:
    groups = resources("AWS::EC2::SecurityGroup")
    assert not resources("AWS::EC2::SecurityGroupIngress")
    assert "SecurityGroupIngress" not in groups["ConnectGroup"]
    (door,) = groups["HostGroup"]["SecurityGroupIngress"]
    assert (door["IpProtocol"], door["FromPort"], door["ToPort"]) == ("tcp", 22, 22)
    assert door["SourceSecurityGroupId"] == {"Fn::GetAtt": ["ConnectGroup", "GroupId"]}
    (way,) = resources("AWS::EC2::SecurityGroupEgress").values()
    assert way["GroupId"] == {"Fn::GetAtt": ["ConnectGroup", "GroupId"]}
    assert (way["FromPort"], way["ToPort"]) == (22, 22)
    (endpoint,) = resources("AWS::EC2::InstanceConnectEndpoint").values()
    assert endpoint["SecurityGroupIds"] == [{"Fn::GetAtt": ["ConnectGroup", "GroupId"]}]


def test_the_network_leads_to_s3_alone() -> None:
    kinds = {resource["Type"] for resource in template()["Resources"].values()}
    doors = {
        "InternetGateway",
        "NatGateway",
        "EgressOnlyInternetGateway",
        "Route",
        "EIP",
        "VPCPeeringConnection",
    }
    assert not {f"AWS::EC2::{door}" for door in doors} & kinds
    subnets = resources("AWS::EC2::Subnet").values()
    assert all(subnet["MapPublicIpOnLaunch"] is False for subnet in subnets)
    assert len({str(subnet["AvailabilityZone"]) for subnet in subnets}) == 2
    (gateway,) = resources("AWS::EC2::VPCEndpoint").values()
    assert gateway["VpcEndpointType"] == "Gateway"
    assert gateway["ServiceName"] == {"Fn::Sub": "com.amazonaws.${AWS::Region}.s3"}
    places = [
        place for found in statements(gateway["PolicyDocument"]) for place in as_list(found["Resource"])
    ]
    names = {re.sub(r".*:::|/\*$", "", place["Fn::Sub"]) for place in places}
    artifacts = StackNames("${AWS::StackName}").artifacts("${AWS::AccountId}", "${AWS::Region}")
    assert names == {
        "${BucketName}",
        artifacts,
        f"{artifacts}/releases",
        "al2023-repos-${AWS::Region}-de612dc2",
    }
    for found in statements(gateway["PolicyDocument"]):
        if "s3:PutObject" in as_list(found["Action"]):
            assert all("${BucketName}" in place["Fn::Sub"] for place in found["Resource"])
        if found["Sid"] != "AmazonLinux":
            assert found["Condition"] == {
                "ArnEquals": {"aws:PrincipalArn": {"Fn::GetAtt": ["HostRole", "Arn"]}}
            }


def matches(name: str, domain: str) -> bool:
    """Return whether a domain of a DNS Firewall's list covers a name."""
    return domain == "*" or name == domain or (domain[0] == "*" and name.endswith(domain[1:]))


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("department.s3.eu-west-1.amazonaws.com", True),
        ("s3.eu-west-1.amazonaws.com", True),
        ("cxr-inbox-artifacts-1-eu-west-1.s3.amazonaws.com", True),
        ("al2023-repos-eu-west-1-de612dc2.s3.dualstack.eu-west-1.amazonaws.com", True),
        ("patient-name.attacker.example", False),
        ("s3.eu-west-1.amazonaws.com.attacker.example", False),
        ("attackers3.eu-west-1.amazonaws.com", False),
        ("x.execute-api.eu-west-1.amazonaws.com", False),  # whose owner could read its log
    ],
)
def test_the_dns_firewall_lets_names_of_s3_pass_alone(name: str, passes: bool) -> None:
    kinds = ("FirewallDomainList", "FirewallRuleGroup", "FirewallRuleGroupAssociation")
    lists, groups, associations = (resources(f"AWS::Route53Resolver::{kind}") for kind in kinds)
    for resource in (*lists, *groups, *associations):
        assert template()["Resources"][resource]["Condition"] == "FiltersNames"
    (group,) = groups.values()
    (association,) = associations.values()
    assert association["VpcId"] == {"Ref": "Network"}
    assert 100 < association["Priority"] < 9900
    for rule in sorted(group["FirewallRules"], key=lambda rule: int(rule["Priority"])):
        domains = [
            domain if isinstance(domain, str) else domain["Fn::Sub"]
            for domain in lists[rule["FirewallDomainListId"]["Ref"]]["Domains"]
        ]
        values = {"${AWS::Region}": "eu-west-1", "${AWS::URLSuffix}": "amazonaws.com"}
        for variable, value in values.items():
            domains = [domain.replace(variable, value) for domain in domains]
        if any(matches(name, domain) for domain in domains):
            assert (rule["Action"] == "ALLOW") == passes
            if passes:  # the canonical names of S3's are others, in no list
                assert rule["FirewallDomainRedirectionAction"] == "TRUST_REDIRECTION_DOMAIN"
            return
    pytest.fail("no rule decides about this name")


def test_the_launch_template_names_the_release_and_the_bucket_that_deploy_writes() -> None:
    artifacts = StackNames("${AWS::StackName}").artifacts("${AWS::AccountId}", "${AWS::Region}")
    assert f"CXR_ARTIFACTS={artifacts} CXR_FIRST_RELEASE=${{Release}}\n" in user_data()
    release = template()["Parameters"]["Release"]
    assert "Default" not in release
    assert re.fullmatch(release["AllowedPattern"], f"2-{'0' * 64}")
    assert template()["Outputs"]["ArtifactBucket"]["Value"] == {"Fn::Sub": artifacts}


def test_a_host_is_launched_without_a_key_and_with_an_encrypted_disk() -> None:
    (launch,) = resources("AWS::EC2::LaunchTemplate").values()
    data = launch["LaunchTemplateData"]
    assert "KeyName" not in data
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "stop"
    (disk,) = data["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"] is True
    assert disk["Ebs"]["VolumeType"] == "gp3"
    for tags in data["TagSpecifications"]:
        assert {"Key": "cxr:stack", "Value": {"Ref": "AWS::StackName"}} in tags["Tags"]


@pytest.mark.parametrize(
    ("arn", "fits"),
    [
        ("", True),
        ("arn:aws:kms:eu-west-1:123456789012:key/12345678-1234-1234-1234-123456789012", True),
        ("arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-0123456789abcdef", True),
        ("arn:aws:kms:eu-west-1:123456789012:alias/x-rays", False),
        ("12345678-1234-1234-1234-123456789012", False),
        ("arn:aws:kms:eu-west-1:123456789012:key/*", False),
    ],
)
def test_a_key_is_named_by_its_arn(arn: str, fits: bool) -> None:
    assert bool(re.fullmatch(template()["Parameters"]["KmsKeyArn"]["AllowedPattern"], arn)) == fits


@pytest.mark.whole
def test_the_user_data_is_a_script(tmp_path: Path) -> None:
    script = tmp_path / "user-data"
    script.write_text(re.sub(r"\$\{[\w:.]+\}", "x", user_data()))
    assert script.read_text().startswith("#!/bin/bash\n")
    assert script.stat().st_size + 4096 < 16_384  # the limit of EC2, with the longest extra user data
    subprocess.run(["bash", "-n", script], check=True)


def test_the_architecture_follows_the_instance_type() -> None:
    kinds = template()["Mappings"]["InstanceTypes"]
    assert set(kinds) == set(template()["Parameters"]["InstanceType"]["AllowedValues"])
    for kind, row in kinds.items():
        families = {name.split(".")[0] for name in row["Types"]}
        graviton = {bool(re.fullmatch(r"[a-z]+\d+g[a-z]*", family)) for family in families}
        assert graviton == {row["Architecture"] == "arm64"}, kind
        assert row["Types"][0] == kind
        assert len(row["Types"]) > 1


def test_hosts_have_the_image_that_the_functions_may_launch_and_deploy_reads() -> None:
    newest = {"Fn::If": ["IsArm", {"Ref": "AmiArm"}, {"Ref": "AmiX86"}]}
    pinned = {"Fn::If": ["HasPinnedAmi", {"Ref": "PinnedAmi"}, newest]}
    image = {"Fn::If": ["HasAmi", {"Ref": "Ami"}, pinned]}
    (launch,) = resources("AWS::EC2::LaunchTemplate").values()
    assert launch["LaunchTemplateData"]["ImageId"] == image
    assert template()["Outputs"]["Image"]["Value"] == image
    assert template()["Outputs"]["NewestImage"]["Value"] == newest
    (part,) = resources("AWS::IAM::Role")["IngestRole"]["Policies"]
    (parts,) = [
        found["Resource"]
        for found in statements(part["PolicyDocument"])
        if found.get("Sid") == "LaunchWithTheTemplatesParts"
    ]
    assert {"Image": image} in [place["Fn::Sub"][1] for place in parts if isinstance(place["Fn::Sub"], list)]


def test_the_resources_are_those_that_the_code_names() -> None:
    index, lease = resources("AWS::DynamoDB::Table").values()
    names = StackNames("${AWS::StackName}")
    assert index["TableName"] == {"Fn::Sub": names.index}
    assert lease["TableName"] == {"Fn::Sub": names.lease}
    queues = {queue["QueueName"]["Fn::Sub"] for queue in resources("AWS::SQS::Queue").values()}
    assert {names.jobs, names.dead_jobs, names.dead_verdicts} <= queues
    (launch,) = resources("AWS::EC2::LaunchTemplate").values()
    assert launch["LaunchTemplateName"] == {"Fn::Sub": names.launch_template}
    assert index["KeySchema"] == [{"AttributeName": "key", "KeyType": "HASH"}]
    assert lease["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    for table in (index, lease):
        assert table["BillingMode"] == "PAY_PER_REQUEST"
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_the_alarms_reach_the_topic_and_count_what_the_code_counts() -> None:
    alarms = resources("AWS::CloudWatch::Alarm")
    assert len(alarms) >= 6
    assert all(alarm["AlarmActions"] == [{"Ref": "Alarms"}] for alarm in alarms.values())
    ours = {alarm["MetricName"] for alarm in alarms.values() if alarm.get("Namespace") == "CXRInbox"}
    assert ours == {"Failed", "OldestWaitingSeconds", "HostFault"}
    sources = [*(ROOT / "pipeline").glob("*.py"), *(ROOT / "handlers").glob("*.py")]
    counted = {name for path in sources for name in re.findall(r'count\(\s*"(\w+)"', path.read_text())}
    assert ours | {"NoCall", "Typicality"} <= counted


def test_days_without_calls_ring_when_there_are_enough_xrays() -> None:
    alarm = resources("AWS::CloudWatch::Alarm")["NoCallAlarm"]
    share, mean, number = alarm["Metrics"]
    assert share["Expression"] == "IF(number >= 50, mean, 0)"
    assert [one["Id"] for one in (mean, number)] == ["mean", "number"]
    assert [one["MetricStat"]["Stat"] for one in (mean, number)] == ["Average", "SampleCount"]
    assert mean["MetricStat"]["Metric"] == number["MetricStat"]["Metric"]
    assert mean["MetricStat"]["Metric"]["MetricName"] == "NoCall"
    assert evaluated_seconds(alarm) == 3 * 24 * 3600


STUCK = {  # each minute a sample: taken at once, and invisible until the 720 s are over
    "ApproximateNumberOfMessagesVisible": [0.0] * 60,
    "ApproximateNumberOfMessagesNotVisible": [1.0] * 60,
}
SEEN = {"ApproximateNumberOfMessagesVisible": [0.0] * 60, "ApproximateNumberOfMessagesNotVisible": [0.0] * 60}
PASSING = {**SEEN, "ApproximateNumberOfMessagesNotVisible": [0.0] * 20 + [1.0] * 6 + [0.0] * 34}


@pytest.mark.parametrize(("samples", "rings"), [(STUCK, True), (SEEN, False), (PASSING, False)])
def test_dead_jobs_that_stay_ring_though_a_function_holds_them(
    samples: dict[str, list[float]], rings: bool
) -> None:
    alarm = resources("AWS::CloudWatch::Alarm")["DeadJobsAlarm"]
    assert has_rung(alarm, samples) == rings
    assert evaluated_seconds(alarm) == 15 * 60


@pytest.mark.parametrize(
    ("minutes", "rings"),
    [((0, 12, 24, 36, 48), True), ((0, 15, 30, 45), True), ((0, 15), True), ((7,), False), ((0, 40), False)],
)
@pytest.mark.parametrize("phase", range(5))
def test_a_function_that_fails_each_time_rings(minutes: tuple[int, ...], rings: bool, phase: int) -> None:
    """A job is delivered again after 12 minutes, and the slowest schedule runs every 15."""
    alarm = resources("AWS::CloudWatch::Alarm")["FunctionErrorsAlarm"]
    errors = [float(minute - phase in minutes) for minute in range(60)]
    assert has_rung(alarm, {"Errors": errors}) == rings


def test_the_estimate_counts_what_the_alarms_watch() -> None:
    watched = sum(
        sum("MetricStat" in metric for metric in alarm["Metrics"]) if "Metrics" in alarm else 1
        for alarm in resources("AWS::CloudWatch::Alarm").values()
    )
    assert watched == cost._ALARMS


def has_rung(alarm: dict[str, Any], samples: dict[str, list[float]]) -> bool:
    """Return whether an alarm rings at any time, with a sample of each metric a minute, missing ones 0."""
    if "MetricName" in alarm:
        points = _points(samples[alarm["MetricName"]], alarm["Period"], alarm["Statistic"])
    else:
        stats = [metric["MetricStat"] for metric in alarm["Metrics"] if "MetricStat" in metric]
        (expression,) = [metric["Expression"] for metric in alarm["Metrics"] if "Expression" in metric]
        assert expression == "SUM(METRICS())"
        names = dict.fromkeys(found["Metric"]["MetricName"] for found in stats)
        (period,) = {found["Period"] for found in stats}
        (stat,) = {found["Stat"] for found in stats}
        series = [_points(samples[name], period, stat) for name in names]
        points = [sum(point) for point in zip(*series, strict=True)]
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    last, least = alarm["EvaluationPeriods"], alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"])
    breaching = [point >= alarm["Threshold"] for point in points]
    return any(sum(breaching[max(0, end - last) : end]) >= least for end in range(1, len(points) + 1))


def evaluated_seconds(alarm: dict[str, Any]) -> int:
    """Return how far back an alarm looks."""
    periods = [metric["MetricStat"]["Period"] for metric in alarm["Metrics"] if "MetricStat" in metric]
    return int(alarm["EvaluationPeriods"] * periods[0])


def _points(samples: list[float], period: int, statistic: str) -> list[float]:
    size = period // 60
    reduce = {"Maximum": max, "Sum": sum}[statistic]
    return [float(reduce(samples[at : at + size])) for at in range(0, len(samples), size)]


def test_the_logs_end() -> None:
    functions, logs = resources("AWS::Serverless::Function"), resources("AWS::Logs::LogGroup")
    assert {function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions.values()} == set(logs)
    assert all(log["RetentionInDays"] == {"Ref": "LogRetentionDays"} for log in logs.values())
