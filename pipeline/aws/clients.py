"""Make the AWS clients: one session, one configuration, one client per service."""

import os
import threading
from typing import TYPE_CHECKING, Any, Literal, overload

from pipeline.errors import StoreError, UsageError

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2_instance_connect import EC2InstanceConnectClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient

_CONNECT_SECONDS = 3
_READ_SECONDS = {"s3": 15, "cloudformation": 60}  # for images and large templates; other answers are short
_OTHER_READ_SECONDS = 5
_ATTEMPTS = {"s3": 4, "cloudformation": 5}
_OTHER_ATTEMPTS = 3
_CONNECTIONS = 64  # number of threads that may use a client at once


class Aws:
    """Hold one AWS account and region, with the credentials of the environment.

    No request is sent before a client is used. Threads may share it.
    """

    def __init__(self, region: str | None = None) -> None:
        """Use `region`, or the configured one; raise UsageError where the profile is unknown.

        AWS_REGION comes before AWS_DEFAULT_REGION, as in Lambda and AWS's other libraries; boto3 ignores it.
        """
        try:
            import boto3
        except ImportError as error:
            raise UsageError("AWS support is not installed: pip install 'cxr-inbox[aws]'") from error
        from botocore.exceptions import ProfileNotFound

        try:
            self._session = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None)
        except ProfileNotFound as error:
            advice = "set AWS_PROFILE to one that `aws configure list-profiles` names"
            raise UsageError(f"{error}: {advice}") from error
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()  # a session must not make two clients at once
        self._account: str | None = None

    @property
    def region(self) -> str:
        """Return the region; raise UsageError where none is configured."""
        if not self._session.region_name:
            raise UsageError("no AWS region: name one with --region, set AWS_REGION, or run `aws configure`")
        return self._session.region_name

    @property
    def credentials(self) -> "Credentials":
        """Return the credentials; raise UsageError where there are none."""
        found = self._session.get_credentials()
        if found is None:
            raise UsageError("no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE")
        return found

    @property
    def account(self) -> str:
        """Return the account's number; raise UsageError where AWS rejects the credentials."""
        if self._account is None:
            from pipeline.aws.errors import ask

            assert self.region
            assert self.credentials
            try:
                self._account = ask("AWS", self.client("sts").get_caller_identity)["Account"]
            except StoreError as error:
                raise UsageError(f"no AWS account can be used: {error}") from error
        return self._account

    @overload
    def client(self, service: Literal["cloudformation"]) -> "CloudFormationClient": ...
    @overload
    def client(self, service: Literal["cloudwatch"]) -> "CloudWatchClient": ...
    @overload
    def client(self, service: Literal["dynamodb"]) -> "DynamoDBClient": ...
    @overload
    def client(self, service: Literal["ec2"]) -> "EC2Client": ...
    @overload
    def client(self, service: Literal["ec2-instance-connect"]) -> "EC2InstanceConnectClient": ...
    @overload
    def client(self, service: Literal["lambda"]) -> "LambdaClient": ...
    @overload
    def client(self, service: Literal["s3"]) -> "S3Client": ...
    @overload
    def client(self, service: Literal["sqs"]) -> "SQSClient": ...
    @overload
    def client(self, service: Literal["sts"]) -> "STSClient": ...
    @overload
    def client(
        self, service: Literal["iam", "kms", "service-quotas", "sns"]
    ) -> Any: ...  # their users name the part they need
    def client(self, service: Any) -> Any:
        """Return the client of a service; its calls end within seconds, with or without an answer."""
        from botocore.config import Config

        # S3: browsers have to post to the bucket's own region, with the signature required since 2020.
        more: dict[str, Any] = (
            {"signature_version": "s3v4", "s3": {"addressing_style": "virtual"}} if service == "s3" else {}
        )
        attempts = _ATTEMPTS.get(service, _OTHER_ATTEMPTS)
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS.get(service, _OTHER_READ_SECONDS),
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=_CONNECTIONS,
            **more,
        )
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._session.client(service, region_name=self.region, config=config)
            return self._clients[service]
