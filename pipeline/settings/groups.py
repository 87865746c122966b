"""Define the settings by group: each is a section of `cxr.toml`, except what the stack tells its hosts."""

import os
import secrets
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from pipeline.settings.tables import NotifyTables, SendTables
from pipeline.settings.types import (
    AeTitle,
    AeTitles,
    Level,
    Pairs,
    Printable,
    PublicKey,
    SshAddress,
    UserPath,
    WebAddress,
    Words,
)


class _Group(BaseModel, defer_build=True):
    """Serve as the base of the groups, each a section of `cxr.toml`."""


class GeneralSettings(_Group):
    """Set where the X-rays are, and what is logged."""

    root: UserPath = Field(Path("data"), description="folder with `inbox/`, `outbox/` and the worklist")
    bucket: str | None = Field(
        None,
        description="S3 bucket to use instead of the folder; its worklist is the stack's DynamoDB table",
    )
    log_level: Level = Field(
        "WARNING", description="least level to log: `DEBUG`, `INFO`, `WARNING` or `ERROR`"
    )
    log_key: str = Field(
        default_factory=lambda: secrets.token_hex(16),
        description="secret key of the hash that replaces file names in logs",
        json_schema_extra={"shown": "random at each start"},
    )
    send: SendTables = Field((), description="PACS that get the results; a `[[send]]` table for each, below")
    notify: NotifyTables = Field(
        (), description="programs and people that get notices; a `[[notify]]` table for each, below"
    )


class PageSettings(_Group):
    """Set up the page that `cxr up` serves."""

    address: str = Field("127.0.0.1", description="address to listen on; one of a network needs users first")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    poll: bool = Field(False, description="scan the inbox instead of watching it; for network shares")
    users: UserPath | None = Field(
        None,
        description="file of the page's users, from `cxr password`; the page then asks for a password",
    )
    proxy_header: str | None = Field(
        None, description="header in which a reverse proxy names the user, instead of `users`"
    )
    proxy_addresses: Words = Field(
        ("127.0.0.1", "::1"),
        description="addresses or networks of the reverse proxies whose headers are trusted",
    )
    page_hosts: Words = Field(
        (), description="host names of the page besides `localhost`, such as `cxr.hospital.example`"
    )
    page_url: WebAddress | None = Field(
        None, description="address of the page for the links in notices, `https://cxr.hospital.example`"
    )
    page_forget: bool = Field(
        False, description="let everybody who may use the page of a folder erase X-rays for good"
    )


class JudgingSettings(_Group):
    """Choose how images are judged."""

    weights: UserPath | None = Field(
        None, description="ONNX file of another network", json_schema_extra={"shown": "the shipped network"}
    )
    prevalence: float | None = Field(
        None,
        ge=0.001,
        le=0.999,
        description="share of pneumonia among your patients; P and both thresholds move with it",
        json_schema_extra={"shown": "that of the network's training"},
    )
    threads: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8),
        gt=0,
        description="number of images to judge at a time",
        json_schema_extra={"shown": "one per core, at most 8"},
    )
    max_bytes: int = Field(
        64_000_000, gt=0, description="largest file in bytes; larger ones are refused unread"
    )
    max_pixels: int = Field(
        50_000_000, gt=0, description="largest image in pixels; larger ones are refused before decoding"
    )
    image_seconds: float = Field(
        20, gt=0, description="time limit for judging one image, in seconds; it has three tries"
    )
    image_memory: int = Field(
        1_500_000_000, ge=300_000_000, description="memory limit for judging one image, in bytes (Linux)"
    )
    keep_uid: bool = Field(False, description="put a DICOM file's SOP Instance UID into its verdict")
    burned_in_previews: bool = Field(
        False, description="write previews of DICOM images even if text, such as a name, may be burned in"
    )


class HostSettings(_Group):
    """Choose where images are judged."""

    host: Literal["local", "ssh", "ec2"] = Field(
        "local",
        description="`local`: this process, `ssh`: a machine of your own; the stack sets `ec2`",
    )
    ssh: SshAddress | None = Field(
        None, description='with `host = "ssh"`: `user@address` or `user@address:port` of the machine'
    )
    ssh_key: UserPath | None = Field(
        None, description="private key file for SSH", json_schema_extra={"shown": "the SSH agent's keys"}
    )
    ssh_host_key: PublicKey | None = Field(
        None, description="public key that the machine must have, `ssh-ed25519 AAAA...`"
    )
    worker_port: int = Field(
        8477, gt=0, lt=65536, description="port of `cxr worker` on its machine's loopback address"
    )
    worker_token: Printable | None = Field(
        None,
        min_length=16,
        description="secret of at least 16 characters that `cxr worker` asks its callers for; "
        "without it, they must be processes of its own user",
    )


class DicomSettings(_Group):
    """Set up the DICOM node of `cxr up`, which receives X-rays from a modality or a PACS."""

    dicom_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the DICOM node, such as 11112; none without it; 0 picks a free one",
    )
    dicom_address: str = Field(
        "127.0.0.1", description="address to listen on; one of a network needs `dicom_callers`"
    )
    ae_title: AeTitle = Field("CXR-INBOX", description="AE title of the node, which senders must call")
    calling_ae_titles: AeTitles = Field(
        (),
        description="AE titles of the senders that may call",
        json_schema_extra={"shown": "any AE title"},
    )
    dicom_callers: Words = Field(
        ("127.0.0.1", "::1"), description="addresses or networks of the senders that may call"
    )
    dicom_certificate: UserPath | None = Field(
        None,
        description="TLS certificate of the node (PEM, with those between it and its authority)",
        json_schema_extra={"shown": "none: no TLS"},
    )
    dicom_key: UserPath | None = Field(None, description="file of that certificate's private key")
    dicom_client_ca: UserPath | None = Field(
        None, description="certificates of the authorities that a sender's own certificate must come from"
    )
    dicom_associations: int = Field(
        32, ge=1, le=500, description="most associations at a time; further ones are rejected for the moment"
    )
    dicom_idle_seconds: float = Field(
        60, gt=0, description="time limit for a sender's next message, in seconds"
    )
    dicom_total_seconds: float = Field(
        3600, gt=0, description="time limit for one association, or for one request to the page, in seconds"
    )


class StackSettings(_Group):
    """Describe the AWS stack; `cxr deploy` takes these where no option says otherwise."""

    stack: str = Field("cxr-inbox", description="name of the stack")
    region: str | None = Field(
        None, description="AWS region", json_schema_extra={"shown": "that of your AWS configuration"}
    )
    create_bucket: bool = Field(
        True, description="let `cxr deploy` create `bucket`; `false` to use a bucket that exists already"
    )
    instance_type: str | None = Field(
        None,
        description="EC2 type of the hosts",
        json_schema_extra={"shown": "`t3.medium`, or as it is"},
    )
    email: str | None = Field(None, description="mail address that gets the alarms")
    idle_minutes: float = Field(
        20, gt=0, description="minutes without a job after which an EC2 host powers itself off"
    )
    retention_days: int | None = Field(
        None,
        ge=0,
        description="days after which X-rays and verdicts are deleted; 0 keeps them",
        json_schema_extra={"shown": "0, or as it is"},
    )
    parameters: Pairs = Field(
        {}, description="other parameters of `template.yaml`: `{ MaximumConcurrency = 4 }`"
    )


class DeployedSettings(_Group):
    """Hold what the stack tells its functions and hosts, in variables alone."""

    queue_url: str | None = Field(None, description="SQS queue that brings a job again later")
    subnets: Words = Field((), description="subnets that a host may be launched in, in this order")
    instance_types: Words = Field((), description="EC2 types that a host may have, in this order")
    connect_endpoint: str | None = Field(None, description="Instance Connect Endpoint, `eice-...`")
    host_role_id: str = Field("", description="unique id of the hosts' role, `AROA...`")
    max_hosts: int = Field(1, ge=1, le=5, description="most hosts at a time")
    spot: bool = Field(False, description="launch Spot Instances where there is capacity")
    template_version: str = Field("$Latest", description="version of the launch template, to launch from")
    artifacts: str = Field("", description="bucket of the releases that a host installs")
    first_release: str = Field("", description="release that a host installs first, with its manifest's hash")
    notices_topic: str | None = Field(None, description="SNS topic that gets a notice of each verdict")
    host_id: str | None = Field(None, description="name of this EC2 host, `<role id>:<instance id>`")
