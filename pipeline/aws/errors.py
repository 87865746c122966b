"""How the adapters of AWS ask: botocore's errors become ours."""

from collections.abc import Callable
from typing import Any

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

from pipeline.errors import StoreError

_NO_CREDENTIALS = "there are no AWS credentials: run `aws configure`, or set AWS_PROFILE"
_LOG_IN = "log in to AWS again"
_WRONG_KEY = "AWS does not know these credentials: run `aws configure`, or set AWS_PROFILE"
_NOT_ALLOWED = "these credentials lack a permission"
_ADVICE = {  # the services have several words for the same
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
    "InvalidSignatureException": f"{_WRONG_KEY}; a wrong clock of this machine looks the same",
}


class AwsRefused(StoreError):
    """AWS answered, and refused; `code` is its word for why."""

    def __init__(self, service: str, code: str) -> None:
        advice = f" ({_ADVICE[code]})" if code in _ADVICE else ""
        super().__init__(f"{service} refused: {code}{advice}")
        self.code = code


def ask(service: str, call: Callable[..., dict[str, Any]], **request: Any) -> dict[str, Any]:
    """Call AWS. AwsRefused, or StoreError when there was no answer; `service` is what a person calls it."""
    try:
        return call(**request)
    except ClientError as error:
        raise AwsRefused(service, str(error.response["Error"]["Code"])) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(_NO_CREDENTIALS) from error
    except (CredentialRetrievalError, LoginError, SSOError, TokenRetrievalError) as error:
        raise StoreError(f"the AWS credentials cannot be had ({type(error).__name__}): {_LOG_IN}") from error
    except BotoCoreError as error:
        raise StoreError(f"{service} did not answer: {type(error).__name__}") from error
