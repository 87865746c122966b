"""Choose how a receiver of the settings gets its notices."""

from pipeline.errors import UsageError
from pipeline.notices.notice import NoticeWriter
from pipeline.notices.webhook import Webhook
from pipeline.outgoing.delivery import Destination
from pipeline.settings.tables import NotifyTo


def make_receiver(table: NotifyTo, secret: str, page_url: str | None) -> Destination:
    """Build the destination of a `[[notify]]` table; raise UsageError if it cannot be used."""
    writer = NoticeWriter(table.name, secret, page_url, table.with_name)
    if table.is_webhook:
        return Webhook(table, writer)
    try:
        from pipeline.notices.messages import Messages
    except ModuleNotFoundError as error:
        advice = "pip install 'cxr-inbox[pacs]'"
        raise UsageError(f"[[notify]] {table.name} needs the extra pacs: {advice}") from error
    return Messages(table, writer)
