"""Run moto's server with patches for speed."""

import time
from functools import cache
from typing import Any

from moto import backends
from moto.server import main
from moto.sqs import models
from moto.sqs.models import Message, SQSBackend

_modules = backends.list_of_moto_modules
_attributes = SQSBackend.get_queue_attributes


def _is_kept(self: SQSBackend, queue_name: str, message: Message) -> bool:
    kept = self.get_queue(queue_name).message_retention_period  # seconds
    return bool(message.sent_timestamp / 1000 + kept > time.time())


def _chosen_attributes(self: SQSBackend, queue_name: str, attribute_names: list[str]) -> dict[str, Any]:
    found = _attributes(self, queue_name, ["All"])
    return (
        found
        if "All" in attribute_names
        else {name: found[name] for name in attribute_names if name in found}
    )


SQSBackend.is_message_valid_based_on_retention_period = _is_kept
SQSBackend.get_queue_attributes = _chosen_attributes
models.unix_time_millis = lambda: time.time() * 1000
backends.list_of_moto_modules = cache(lambda: list(_modules()))

if __name__ == "__main__":
    main()
