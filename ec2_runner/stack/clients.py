"""The AWS clients of `cxr deploy`, `status` and `destroy`, with the user's own credentials."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StackError, UsageError

_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 10, 60, 5


@dataclass(frozen=True)
class Clients:
    """Low-level boto3 clients, and whose they are."""

    account: str
    region: str
    cloudformation: Any
    cloudwatch: Any
    dynamodb: Any
    ec2: Any
    functions: Any  # AWS Lambda
    s3: Any
    sqs: Any


def connect(region: str | None) -> Clients:
    """Clients of a region, or of the configured one; UsageError says what is missing."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise UsageError("AWS needs its parts: pip install 'cxr-inbox[aws]'") from error
    try:
        session = boto3.Session(region_name=region)
        if not session.region_name:
            raise UsageError("no region: name one with --region, or set AWS_REGION")
        if session.get_credentials() is None:
            raise UsageError("no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE")
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        )
        account = session.client("sts", config=config).get_caller_identity()["Account"]
    except (BotoCoreError, ClientError) as error:
        raise UsageError(
            f"AWS does not take the credentials ({error}): run `aws sso login`, or set AWS_PROFILE"
        ) from error
    names = ("cloudformation", "cloudwatch", "dynamodb", "ec2", "lambda", "s3", "sqs")
    return Clients(account, session.region_name, *(session.client(name, config=config) for name in names))


@contextmanager
def aws_errors() -> Iterator[None]:
    """What AWS refuses becomes a StackError of one line."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        said = error.response["Error"]
        raise StackError(
            f"AWS refused {error.operation_name}: {said.get('Code')}: {said.get('Message')}"
        ) from error
    except (BotoCoreError, Boto3Error) as error:
        raise StackError(f"AWS did not answer: {error}; try again") from error
