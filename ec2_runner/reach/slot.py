"""Have one host: find, start, launch and replace its EC2 instance, without waiting.

A stack has one slot for each host that it may have at a time.
"""

import logging
import time
from collections.abc import Callable

from ec2_runner.reach.fleet import GONE, Fleet, Instance, Placement
from ec2_runner.reach.lease import Holding, Lease
from pipeline.aws.errors import AwsRefused
from pipeline.errors import HostNotReady, StoreError

log = logging.getLogger(__name__)

_CLAIM_SECONDS = 60.0  # time for a handler to launch; then another handler does, and gets the same instance
_LAUNCH_SECONDS = 15.0  # for tries in several places; the next call goes on where this one ended
# After a launch, EC2 may not know the instance everywhere: it is eventually consistent.
_SHOWN_SECONDS = 120.0
_SOON = 20.0  # seconds until a change of state is likely
# A running host that nobody can reach for this long is replaced; first boots are slow.
_REPLACE_SECONDS = 600.0
_SPELL_SECONDS = 180.0  # failures further apart do not count together: others may have reached the host
_IMPAIRED_SECONDS = 120.0  # the same where EC2 itself reports the host as impaired
_JUST_STARTED_SECONDS = 120.0  # a host that stops again this soon never worked
_START_SECONDS = 60.0  # after EC2 accepted a start, it may show the host as stopped for so long
_MOST_STARTS = 3  # that EC2 accepts although the host stays stopped
# EC2 starts a host within a minute, and ends a system that does not stop by force within a few; ten minutes
# are far beyond both. AWS's advice for a stop that is stuck is to launch a replacement.
# docs.aws.amazon.com/AWSEC2/latest/UserGuide/TroubleshootingInstancesStopping.html
_PASSING_SECONDS = 600.0
# Between launches while EC2 ends each host, doubled for each loss. At most what a message in SQS can wait.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 60.0, 900.0
# Reasons for which an intact instance is stopped or ended.
# docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
_ORDERLY = {
    *("Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate", "Client.InstanceInitiatedShutdown"),
    *("Server.ScheduledStop", "Server.SpotInstanceShutdown", "Server.SpotInstanceStop"),
    "Server.SpotInstanceTermination",
}
_ADVICE = {  # where the code alone says too little
    "Client.InternalError": ": mostly a disk encrypted with a KMS key that the functions may not use",
    "Client.VolumeLimitExceeded": ": the account's limit of EBS volumes",
    "Client.InvalidSnapshot.NotFound": ": the image's snapshot is gone",
}
_NOT_QUITE_STOPPED = "IncorrectInstanceState"  # or another handler has just started it
# Codes for no room for another host in that place or of that type.
# docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_NO_ROOM = {
    *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientFreeAddressesInSubnet"),
    *("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "Unsupported"),
    *("SpotMaxPriceTooLow", "UnfulfillableCapacity"),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",  # the account never used Spot Instances
}
# The token was used by a launch elsewhere or of another type: by a handler of another release.
_TOKEN_USED = "IdempotentParameterMismatch"


class Slot:
    """Have one host of a stack, as the lease of the slot records it."""

    def __init__(
        self, fleet: Fleet, lease: Lease, placements: list[Placement], now: Callable[[], float] = time.time
    ) -> None:
        """Launch in the first of the placements that has room."""
        self.lease, self._fleet, self._placements, self._now = lease, fleet, placements, now

    def host(self) -> Instance:
        """Return the running host; raise HostNotReady, with what is being done, where there is none."""
        holding = self._holding()
        instance = self._of(holding) or self._adopted(holding) or self._launched(holding)
        if instance.state == "running":
            return instance
        if self._has_reverted(instance):
            why = f"EC2 reverted a start ({instance.reason or 'no reason given'})"
            self._replace(instance, holding, why, 120, is_room_missing=True)
        if instance.state == "stopped" and self._fleet.is_outdated(instance):
            self._replace(instance, holding, "the host is of an older version of the stack", is_fault=False)
        if instance.state == "stopped":
            self._start(instance, holding)
        if instance.state in GONE:
            self._mourn(instance, holding)
        self._wait_out(instance, holding)
        raise HostNotReady(f"the host is {instance.state}", _SOON)

    def unreachable(self, instance: Instance) -> None:
        """Note that a running host could not be reached.

        If it stays so for too long, the host is replaced and HostNotReady raised.
        """
        holding, now = self.lease.read(), self._now()
        if holding.instance_id != instance.id:
            return
        is_new = now - holding.unreachable_at > _SPELL_SECONDS
        since = now if is_new else holding.unreachable_since
        self.lease.note_unreachable(instance.id, since, now)
        patience = _IMPAIRED_SECONDS if self._fleet.is_impaired(instance) else _REPLACE_SECONDS
        if now - max(since, instance.launched_at) > patience:
            self._replace(instance, holding)

    def reached(self, instance: Instance) -> None:
        """Forget all failures to have a host and to reach it."""
        if self.lease.read().has_history:
            self.lease.note_reached(instance.id)

    def _holding(self) -> Holding:
        holding = self.lease.read()
        if not holding.generation:
            # Not 1: EC2 remembers the tokens of a stack of the same name that was deleted today.
            self.lease.begin(int(self._now()))
            holding = self.lease.read()
        return holding

    def _of(self, holding: Holding) -> Instance | None:
        """Return the instance that holds the lease, even if it is gone."""
        if holding.instance_id is None:
            return None
        fresh = self._now() - holding.launched_at < _SHOWN_SECONDS
        unknown = Instance(holding.instance_id, "pending" if fresh else "terminated", "", 0)
        return self._fleet.find(holding.instance_id) or unknown

    def _adopted(self, holding: Holding) -> Instance | None:
        """Return an instance that the lease does not know: its handler died between launch and lease."""
        # One that was replaced may still be there: protected from termination, or stuck.
        mine = [one for one in self._fleet.instances() if one.slot == self.lease.slot]
        alive = [one for one in mine if one.id != holding.replaced_id]
        found = [one for one in alive if not self._has_reverted(one)]
        if not found or not self.lease.hold(holding.generation, found[-1].id, self._now()):
            return None
        return found[-1]

    def _launched(self, holding: Holding) -> Instance:
        """Launch an instance in the first place that has room, and return it."""
        began = now = self._now()
        if now < holding.launch_after:
            raise HostNotReady(*_put_off(holding.ended_by or "", holding.launch_after - now), is_fault=True)
        for _ in self._placements:
            generation, now = holding.generation, self._now()
            if now - began > _LAUNCH_SECONDS and holding.attempt < len(self._placements):
                raise HostNotReady("no capacity so far; other types and subnets are tried", 5)
            if now - began > _LAUNCH_SECONDS:
                break
            if not self.lease.claim(generation, now, now + _CLAIM_SECONDS):
                raise HostNotReady("another handler is launching the host", _SOON)
            try:
                place = self._placements[holding.attempt % len(self._placements)]
                instance = self._fleet.launch(place, self.lease.slot, generation)
            except AwsRefused as error:
                if error.code == _TOKEN_USED:
                    self.lease.retire(generation)  # the next look adopts the instance of the other launch
                    raise HostNotReady("this launch was made already, as another one", _SOON) from error
                if error.code not in _NO_ROOM:
                    reason = f"EC2 refused to launch a host: {error.code}"
                    raise HostNotReady(reason, 120, is_fault=True) from error
                log.warning("no capacity for a host of this type in this subnet: %s", error.code)
                self.lease.retire(generation, attempt=holding.attempt + 1)
                holding = self.lease.read()  # another handler may have been faster
            except StoreError as error:
                raise HostNotReady(str(error)) from error
            else:
                self.lease.hold(generation, instance.id, now)
                return instance
        raise HostNotReady("no capacity for a host of any type in any subnet", 120, is_fault=True)

    def _start(self, instance: Instance, holding: Holding) -> None:
        now = self._now()
        if now - holding.started_at < _START_SECONDS:
            return  # EC2 does not show it yet, or is about to take it back
        if holding.starts >= _MOST_STARTS:
            why = f"EC2 accepted {holding.starts} starts, and the host is still stopped"
            self._replace(instance, holding, why, is_room_missing=True)
        try:
            self._fleet.start(instance)
        except AwsRefused as error:
            if error.code in _NO_ROOM:
                why = f"EC2 has no capacity to start the host ({error.code})"
                self._replace(instance, holding, why, is_room_missing=True)
            if error.code != _NOT_QUITE_STOPPED:
                raise HostNotReady(f"EC2 refused to start the host: {error.code}", 60, True) from error
        except StoreError as error:
            raise HostNotReady(str(error)) from error
        else:
            self.lease.note_start(instance.id, now, now - _START_SECONDS)

    def _mourn(self, instance: Instance, holding: Holding) -> None:
        """Begin the next generation after EC2 or somebody ended the host; raise HostNotReady.

        After a first end by somebody's wish the next launch follows at once. Otherwise each loss doubles the
        pause before the next launch, so that a launch that cannot succeed is not repeated without end.
        """
        code = instance.reason
        is_room_missing = code.partition(".")[2] in _NO_ROOM
        attempt = holding.attempt + is_room_missing
        if is_room_missing and attempt % len(self._placements):
            log.warning("no capacity for a host of this type in this subnet: %s", code)
            self.lease.retire(holding.generation, attempt=attempt)
            reason = f"EC2 has no capacity for this host ({code}); another type or subnet is tried"
            raise HostNotReady(reason, 5)
        losses = holding.losses + 1
        if losses == 1 and (not code or code in _ORDERLY):
            self.lease.retire(holding.generation, losses=losses)
            raise HostNotReady(f"the host is {instance.state}", _SOON)
        pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(losses - 1, 10), _LONGEST_PAUSE_SECONDS)
        log.error("EC2 ended the host: %s", code or "no reason given")
        after, generation = self._now() + pause, holding.generation
        self.lease.retire(generation, attempt=attempt, losses=losses, launch_after=after, ended_by=code)
        raise HostNotReady(*_put_off(code, pause), is_fault=True)

    def _wait_out(self, instance: Instance, holding: Holding) -> None:
        """Replace a host that stays `pending` or `stopping` for too long."""
        if instance.state not in ("pending", "stopping"):
            return
        now = self._now()
        if holding.passing != instance.state:
            self.lease.note_passing(instance.id, instance.state, now)
        elif now - holding.passing_since > _PASSING_SECONDS:
            minutes = f"{(now - holding.passing_since) / 60:.0f} minutes"
            self._replace(instance, holding, f"the host was {instance.state} for {minutes}")

    def _has_reverted(self, instance: Instance) -> bool:
        """Return whether EC2 reverted an accepted start: no capacity, or a key that it may not use."""
        if instance.state != "stopped":
            return False
        if instance.reason:
            return instance.reason not in _ORDERLY
        return self._now() - instance.launched_at < _JUST_STARTED_SECONDS

    def _replace(
        self,
        instance: Instance,
        holding: Holding,
        why: str = "the host was lost",
        pause: float = 5,
        is_room_missing: bool = False,
        is_fault: bool = True,
    ) -> None:
        log.log(logging.ERROR if is_fault else logging.INFO, "replacing the host: %s", why)
        attempt = holding.attempt + is_room_missing
        if self.lease.retire(holding.generation, attempt=attempt, replaced_id=instance.id):
            try:
                self._fleet.terminate(instance)
            except HostNotReady as error:  # the reaper tries again
                log.error("the instance %s could not be ended: %s", instance.id, error)
        raise HostNotReady(f"{why}; another one is being launched", pause, is_fault)


def _put_off(code: str, seconds: float) -> tuple[str, float]:
    """Return what to say while the next launch is put off, and when to ask again."""
    reason = f"{code or 'no reason given'}{_ADVICE.get(code, '')}"
    return f"EC2 ended the host ({reason}); another one is launched in {seconds:.0f} s", seconds + 1
