"""Send notices to people by mail, Slack, Teams and the like; by apprise."""

import logging

from apprise import Apprise, AppriseAsset, NotifyFormat

from pipeline.errors import UsageError
from pipeline.notices.notice import NoticeWriter
from pipeline.outgoing.delivery import Delivery, DestinationDown
from pipeline.settings.tables import NotifyTo

for _library in ("apprise", "requests", "urllib3"):  # their lines quote addresses, which hold secrets
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)

_TOTAL_SECONDS = 60.0


class Messages:
    """Send to one address of apprise; a destination of the queue."""

    def __init__(self, table: NotifyTo, writer: NoticeWriter) -> None:
        """Prepare to send; raise UsageError for an address that apprise does not know."""
        self.name, self._writer = table.name, writer
        asset = AppriseAsset(
            app_id="CXR Inbox",
            app_desc="CXR Inbox",
            app_url="",
            image_url_mask="",  # no pictures of another site
            image_url_logo="",
            http_redirects=False,
            async_mode=False,
            service_timeout=_TOTAL_SECONDS,
            storage_mode="memory",
        )
        self._service = Apprise(asset=asset)
        service = Apprise.instantiate(table.to, asset=asset)
        if service is None or not self._service.add(service):
            raise UsageError(
                f"[[notify]] {table.name}: apprise cannot use this address; its parts are in "
                "github.com/caronc/apprise/wiki"
            )

    def deliver(self, delivery: Delivery) -> None:
        """Send the notice of a verdict; see `pipeline.outgoing.delivery.Destination`."""
        notice = self._writer.write(delivery)
        try:
            is_sent = self._service.notify(notice.text, notice.title, body_format=NotifyFormat.TEXT)
        except Exception as error:  # noqa: BLE001  one of its many services may raise anything
            raise DestinationDown(f"apprise failed with {type(error).__name__}") from None
        if not is_sent:
            raise DestinationDown(
                "it does not take the message: can it be reached, and is its address right?"
            )
