"""Translate AWS's errors into ours; no other module does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from pipeline.errors import StackError, StoreError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_NO_CREDENTIALS = "there are no AWS credentials: run `aws configure`, or set AWS_PROFILE"
_LOG_IN = "log in to AWS again"
_WRONG_KEY = "AWS does not know these credentials: run `aws configure`, or set AWS_PROFILE"
_NOT_ALLOWED = "these credentials lack a permission"
_ADVICE = {  # the services use several codes for the same error
    "NoSuchBucket": "there is no such bucket; check its name and the region",
    "ResourceNotFoundException": "name the stack that made it with --stack, and its region in AWS_REGION",
    "AWS.SimpleQueueService.NonExistentQueue": "name the stack with --stack, and its region in AWS_REGION",
    "QueueDoesNotExist": "name the stack with --stack, and its region in AWS_REGION",
    "AccessDenied": _NOT_ALLOWED,
    "AccessDeniedException": _NOT_ALLOWED,
    "ExpiredToken": _LOG_IN,
    "ExpiredTokenException": _LOG_IN,
    "InvalidAccessKeyId": _WRONG_KEY,
    "InvalidClientTokenId": _WRONG_KEY,
    "UnrecognizedClientException": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_KEY,
    "InvalidSignatureException": f"{_WRONG_KEY}; a wrong clock on this machine causes the same error",
}


class AwsRefused(StoreError):
    """Report that AWS refused a request.

    `code` is AWS's code for the reason; `reason` is its message, which may hold a key.
    """

    def __init__(self, service: str, code: str, reason: str = "") -> None:
        advice = f" ({_ADVICE[code]})" if code in _ADVICE else ""
        super().__init__(f"{service} refused: {code}{advice}")
        self.code, self.reason = code, reason


def ask(service: str, call: Callable[_P, _T], *arguments: _P.args, **request: _P.kwargs) -> _T:
    """Call AWS once, with the errors of `translated`."""
    with translated(service):
        return call(*arguments, **request)


@contextmanager
def translated(service: str) -> Iterator[None]:
    """Raise AwsRefused where AWS refuses a request in a `with` block, or StoreError where it does not answer.

    `service` is its name in messages to people. No message holds a key.
    """
    try:
        yield
    except ClientError as error:
        said = error.response["Error"]
        raise AwsRefused(service, str(said["Code"]), said.get("Message", "")) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(_NO_CREDENTIALS) from error
    except (CredentialRetrievalError, LoginError, SSOError, TokenRetrievalError) as error:
        raise StoreError(
            f"the AWS credentials could not be obtained ({type(error).__name__}): {_LOG_IN}"
        ) from error
    except BotoCoreError as error:
        raise StoreError(f"{service} did not answer: {type(error).__name__}") from error


@contextmanager
def stack_errors() -> Iterator[None]:
    """Raise StackError, with AWS's own message, where AWS refuses or does not answer in a `with` block."""
    from boto3.exceptions import Boto3Error

    try:
        yield
    except ClientError as error:
        said = error.response["Error"]
        raise StackError(
            f"AWS refused {error.operation_name}: {said.get('Code')}: {said.get('Message')}"
        ) from error
    except (BotoCoreError, Boto3Error) as error:
        raise StackError(f"AWS did not answer: {error}; try again") from error
