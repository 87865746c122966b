"""Run moto's server, which otherwise counts all messages of a queue for each one that it hands out."""

import time

from moto.server import main
from moto.sqs.models import Message, SQSBackend


def _is_kept(self: SQSBackend, queue_name: str, message: Message) -> bool:
    kept = self.get_queue(queue_name).message_retention_period  # seconds
    return bool(message.sent_timestamp / 1000 + kept > time.time())


SQSBackend.is_message_valid_based_on_retention_period = _is_kept

if __name__ == "__main__":
    main()
