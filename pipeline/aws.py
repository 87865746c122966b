"""How the adapters of AWS ask: botocore's errors become ours."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.errors import StoreError


class Refused(StoreError):
    """AWS answered, and refused; `code` is its word for why."""

    def __init__(self, service: str, code: str) -> None:
        super().__init__(f"{service} refused: {code}")
        self.code = code


def ask(service: str, call: Callable[..., dict[str, Any]], **request: Any) -> dict[str, Any]:
    """Call AWS. Refused, or StoreError when there was no answer; `service` is what a person calls it."""
    try:
        return call(**request)
    except ClientError as error:
        raise Refused(service, str(error.response["Error"]["Code"])) from error
    except BotoCoreError as error:
        raise StoreError(f"{service} did not answer: {type(error).__name__}") from error
