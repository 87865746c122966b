"""Run the stack's functions in tests; they reach hosts at `TEST_ENDPOINT` as the user `TEST_HOST_USER`."""

import os
from functools import partial

import handlers.ingest
from ec2_runner.reach import route
from handlers.dead_letter import handler as dead_letter
from handlers.ingest import handler as ingest
from handlers.reconcile import handler as reconcile
from handlers.record import handler as record

__all__ = ["dead_letter", "ingest", "reconcile", "record"]

handlers.ingest._PAUSES = (1, 1, 1, 1)
route.Ec2Route = partial(  # type: ignore[misc,assignment]
    route.Ec2Route, user=os.environ["TEST_HOST_USER"], base=os.environ["TEST_ENDPOINT"]
)
