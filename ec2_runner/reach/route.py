"""Connect to a host: a machine that runs anyway, or an EC2 instance that is started when needed."""

from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from ec2_runner.reach.fleet import Instance
from ec2_runner.reach.identity import READY, Identity, place_of_host
from ec2_runner.reach.slot import Slot
from ec2_runner.reach.ssh import (
    ConnectFailed,
    Connection,
    NobodyListens,
    WrongHostKey,
    connect,
    dial,
    fresh_key,
    own_keys,
)
from ec2_runner.reach.tunnel import EndpointRefused, Tunnel, signed_url
from pipeline.aws.clients import Aws
from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import HostError, HostNotReady, StoreError
from pipeline.ports import Store
from pipeline.settings import Settings
from pipeline.settings.types import SSH_ADDRESS

_READY_LIMIT = 10_000  # bytes
_SSH_PORT = 22
_HOST_USER = "cxr"  # the user that sshd-cxr.conf and the stack's permissions allow
_BOOT_SECONDS = 20.0  # between checks of a booting host


class Route(Protocol):
    """Connect to the host."""

    def open(self, deadline: float) -> Connection:
        """Connect before `deadline` on the monotonic clock; raise HostNotReady when that is impossible."""


@dataclass(frozen=True)
class SshRoute:
    """Connect to `user@address` or `user@address:port`, whose host key is known."""

    settings: Settings

    def open(self, deadline: float) -> Connection:
        """Connect with the key of the settings, or one of the agent's."""
        assert self.settings.ssh is not None
        assert self.settings.ssh_host_key is not None
        found = SSH_ADDRESS.fullmatch(self.settings.ssh)
        assert found is not None  # the settings have checked
        keys = own_keys(self.settings.ssh_key)
        try:
            pipe = dial(found["v6"] or found["host"], int(found["port"] or _SSH_PORT), deadline)
            return connect(pipe, found["user"], keys, self.settings.ssh_host_key, deadline)
        except WrongHostKey as error:
            raise HostNotReady(f"{error}: check CXR_SSH_HOST_KEY", 60, is_fault=True) from error
        except ConnectFailed as error:
            raise HostNotReady(str(error), 60) from error


class _NotPublished(HostError):
    """Report that the host has not published its identity yet."""


class Ec2Route:
    """Connect to a slot's instance through the Instance Connect Endpoint, with a key for one minute."""

    def __init__(
        self,
        slot: Slot,
        store: Store,
        settings: Settings,
        aws: Aws,
        user: str = _HOST_USER,
        base: str | None = None,
    ) -> None:
        """Take the account whose credentials sign.

        `user` is the user that the hosts' SSH accepts; `base` is the address of the endpoint, which AWS is
        asked for otherwise.
        """
        self._slot, self._store, self._settings, self._aws = slot, store, settings, aws
        self._user, self._base = user, base

    def open(self, deadline: float) -> Connection:
        """Find or start the host, and connect to it."""
        instance = self._slot.host()
        try:
            connection = self._connect(instance, self._identity(instance), deadline)
        except (ConnectFailed, NobodyListens, WrongHostKey, _NotPublished) as error:
            self._slot.unreachable(instance)
            is_fault = isinstance(error, WrongHostKey)
            raise HostNotReady(str(error), _BOOT_SECONDS, is_fault) from error
        except EndpointRefused as error:  # by which no host is judged, let alone replaced
            raise HostNotReady(str(error), _BOOT_SECONDS, error.is_fault) from error
        self._slot.reached(instance)
        return connection

    def _identity(self, instance: Instance) -> Identity:
        """Return the identity that the host published when it booted."""
        host_id = f"{self._settings.host_role_id}:{instance.id}"
        try:
            found = self._store.get(f"{place_of_host(host_id)}{READY}", _READY_LIMIT)
            if found is None:
                raise _NotPublished("the host is booting, or installing its release")
            return Identity.model_validate_json(found[1])
        except StoreError as error:
            raise HostNotReady(f"the host's key could not be read: {error}") from error
        except ValidationError as error:
            raise HostNotReady("the host's published identity is damaged", is_fault=True) from error

    def _connect(self, instance: Instance, identity: Identity, deadline: float) -> Connection:
        key, public = fresh_key()
        try:
            ask(
                "EC2 Instance Connect",
                self._aws.client("ec2-instance-connect").send_ssh_public_key,
                InstanceId=instance.id,
                InstanceOSUser=self._user,
                SSHPublicKey=public,
            )
            url = signed_url(
                self._endpoint(),
                self._settings.connect_endpoint or "",
                instance.address,
                self._aws.region,
                self._aws.credentials,
                _SSH_PORT,
            )
        except StoreError as error:
            is_fault = isinstance(error, AwsRefused) and "Denied" in error.code
            raise HostNotReady(str(error), is_fault=is_fault) from error
        tunnel = Tunnel(url, deadline)
        connection = connect(tunnel, self._user, [key], identity.host_key, deadline)
        try:
            connection.open(self._settings.worker_port).close()  # reached means that its worker listens
        except HostError:
            connection.close()
            raise
        return connection

    def _endpoint(self) -> str:
        """Return the address of the Instance Connect Endpoint, whose DNS name only this request tells."""
        if self._base is None:
            name = self._settings.connect_endpoint or ""
            look = self._aws.client("ec2").describe_instance_connect_endpoints
            found = ask("EC2", look, InstanceConnectEndpointIds=[name])
            self._base = f"wss://{found['InstanceConnectEndpoints'][0]['DnsName']}"
        return self._base
