"""Guard the bill: stop a host that is idle or hangs, end one that nobody owns, leave a busy one alone.

This is the second guard; the first is the host, which powers itself off. A host is stopped only when two
looks, some minutes apart, found it without work. It counts as busy no longer than its jobs can take.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ec2_runner.reach.fleet import Fleet, Instance
from ec2_runner.reach.identity import STATUS, place_of_host
from ec2_runner.reach.lease import Holding, Lease
from pipeline.errors import CxrError, HostError, ObjectTooLarge, place_of
from pipeline.ports import Store

log = logging.getLogger(__name__)

Deed = Literal["stopped", "terminated"]
_BOOT_SECONDS = 900.0  # after its start, a host may still be installing
_SILENT_SECONDS = 600.0  # a host reports twice a minute; after this long it hangs
# A worker that works takes or answers a batch much sooner: callers give up after 80 s (`remote`), an image
# after two tries of 60 s to load the network and 20 s to judge it (`model.serve.guarded`). Together that is
# four minutes; the rest is for a slow bucket, and for hosts with a longer `image_seconds`.
_BUSY_SECONDS = 1800.0
_SURE_SECONDS = 240.0  # between the two looks
_MARGIN_SECONDS = 300.0  # beyond the idle time, for the host to power itself off
_LIMIT = 100_000  # bytes of a status


class Spoken(BaseModel):
    """Hold the part of a host's `status.json` that the reaper reads."""

    model_config = ConfigDict(extra="ignore")

    at: datetime
    active: int
    last_job_at: datetime | None = None


class Reaper:
    """Look after the instances of one stack."""

    def __init__(
        self,
        fleet: Fleet,
        leases: list[Lease],
        store: Store,
        role_id: str,
        idle_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the leases of all slots; an instance that none of them holds is nobody's."""
        self._fleet, self._leases, self._store, self._role_id, self._now = fleet, leases, store, role_id, now
        self._idle_seconds = idle_seconds + _MARGIN_SECONDS

    def reap(self) -> dict[str, Deed]:
        """Look once at every instance; return the actions taken, by instance id.

        Raises HostError at the end when that failed for some of them; the others were looked at all the same.
        """
        deeds: dict[str, Deed] = {}
        failures: dict[str, Exception] = {}
        held = {(holding := lease.read()).instance_id: (lease, holding) for lease in self._leases}
        instances = self._fleet.instances()
        for instance in instances:
            try:
                deed = self._looked_after(instance, *held.get(instance.id, (None, None)))
            except Exception as error:  # noqa: BLE001  one odd instance must not keep the others running
                why = str(error) if isinstance(error, CxrError) else place_of(error)
                log.error("the instance %s could not be looked after: %s", instance.id, why)
                failures[instance.id] = error
            else:
                if deed:
                    log.warning("an idle, silent or orphaned host was %s", deed)
                    deeds[instance.id] = deed
        if failures:
            names = ", ".join(failures)
            reason = f"{len(failures)} of {len(instances)} instances could not be looked after: {names}"
            raise HostError(reason) from next(iter(failures.values()))
        return deeds

    def _looked_after(self, instance: Instance, lease: Lease | None, holding: Holding | None) -> Deed | None:
        """Stop or end one instance if it is of no use; return what was done."""
        if lease is None or holding is None:
            if self._now() - instance.launched_at <= _BOOT_SECONDS:
                return None
            self._fleet.terminate(instance)
            return "terminated"
        if instance.state == "running" and self._is_useless(instance, lease, holding.suspect_since):
            self._fleet.stop(instance)
            lease.clear_suspect(instance.id)
            return "terminated" if instance.is_spot else "stopped"
        return None

    def _is_useless(self, instance: Instance, lease: Lease, suspect_since: float) -> bool:
        """Return whether the host had no work now, nor at a look some minutes ago."""
        if not self._looks_idle(instance):
            if suspect_since:
                lease.clear_suspect(instance.id)
            return False
        lease.note_suspect(instance.id, self._now())
        return bool(suspect_since) and self._now() - suspect_since >= _SURE_SECONDS

    def _looks_idle(self, instance: Instance) -> bool:
        now = self._now()
        if now - instance.launched_at < _BOOT_SECONDS:
            return False
        spoken = self._spoken(instance)
        if spoken is None:
            return True
        # Not counted from the worker's start: one whose power-off failed starts again and again.
        last = spoken.last_job_at.timestamp() if spoken.last_job_at else instance.launched_at
        if spoken.active:  # whether it still reports or not
            return now - last > _BUSY_SECONDS
        return now - spoken.at.timestamp() > _SILENT_SECONDS or now - last > self._idle_seconds

    def _spoken(self, instance: Instance) -> Spoken | None:
        try:
            found = self._store.get(place_of_host(f"{self._role_id}:{instance.id}") + STATUS, _LIMIT)
            return Spoken.model_validate_json(found[1]) if found else None
        except (ObjectTooLarge, ValidationError):
            return None
