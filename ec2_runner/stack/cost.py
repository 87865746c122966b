"""Estimate the cost of a stack: at rest, and for the images that it judges."""

from dataclasses import dataclass

from pipeline.errors import UsageError

PRICED = "us-east-1, list prices of 2025, without taxes and free tiers; check them before you rely on them"


@dataclass(frozen=True)
class Burst:
    """Describe what the price of a T type includes, and what more computing costs.

    EC2 launches these types in unlimited mode, which charges for work beyond the baseline:
    docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-unlimited-mode-concepts.html
    """

    baseline: float  # share of each vCPU: .../UserGuide/burstable-credits-baseline-concepts.html
    surplus: float  # US dollars per vCPU hour: aws.amazon.com/ec2/pricing/on-demand
    vcpus: int = 2

    def extra(self, hours: float, busy_hours: float) -> float:
        """Return the surcharge of a host that runs for `hours` and computes on all vCPUs for `busy_hours`."""
        return self.vcpus * max(0.0, busy_hours - self.baseline * hours) * self.surplus


@dataclass(frozen=True)
class HostType:
    """Describe an EC2 instance type that a host may have."""

    hourly: float  # US dollars, Linux on demand: aws.amazon.com/ec2/pricing/on-demand
    substitutes: tuple[str, ...]  # launched, in this order, when it has no capacity
    burst: Burst | None = None  # of the T types


HOST_TYPES = {  # template.yaml's lists are written from these by docs/make.py
    "t3.medium": HostType(0.0416, ("t3a.medium", "c6i.large"), Burst(0.2, 0.05)),
    "t3.large": HostType(0.0832, ("t3a.large", "m6i.large"), Burst(0.3, 0.05)),
    "m7i.large": HostType(0.1008, ("m6i.large", "m6a.large")),
    "m7i.xlarge": HostType(0.2016, ("m6i.xlarge", "m6a.xlarge")),
    "c7i.large": HostType(0.08925, ("c6i.large", "c6a.large")),
    "c7i.xlarge": HostType(0.1785, ("c6i.xlarge", "c6a.xlarge")),
    "c7i.2xlarge": HostType(0.357, ("c6i.2xlarge", "c6a.2xlarge")),
    "t4g.medium": HostType(0.0336, ("c7g.large", "c6g.large"), Burst(0.2, 0.04)),
    "t4g.large": HostType(0.0672, ("m7g.large", "m6g.large"), Burst(0.3, 0.04)),
    "m7g.large": HostType(0.0816, ("m6g.large",)),
    "m7g.xlarge": HostType(0.1632, ("m6g.xlarge",)),
    "c7g.large": HostType(0.0725, ("c6g.large",)),
    "c7g.xlarge": HostType(0.145, ("c6g.xlarge",)),
    "c7g.2xlarge": HostType(0.29, ("c6g.2xlarge",)),
}
_DISK = 0.08  # per gigabyte of gp3 and month: aws.amazon.com/ebs/pricing
_ALARM = 0.10  # per month and metric that it watches: aws.amazon.com/cloudwatch/pricing
_METRIC = 0.30  # per month: aws.amazon.com/cloudwatch/pricing
_STORAGE = 0.023  # per gigabyte in S3 and month: aws.amazon.com/s3/pricing
_PUT, _GET = 0.005e-3, 0.0004e-3  # per S3 request
_MESSAGE = 0.40e-6  # per SQS request: aws.amazon.com/sqs/pricing
_WRITE = 0.625e-6  # per DynamoDB write on demand: aws.amazon.com/dynamodb/pricing/on-demand
_INVOCATION, _GIGABYTE_SECOND = 0.20e-6, 16.6667e-6  # aws.amazon.com/lambda/pricing

# An alarm counts once for each metric that it watches.
_DISK_GB, _RELEASES_GB, _ALARMS, _METRICS, _MAPPINGS = 12, 0.5, 13, 8, 3
_POLLS = 650_000  # per month: Lambda polls an idle queue over five connections, 20 seconds each
_BATCH, _BATCH_SECONDS, _MEMORY_GB = 32, 5.0, 0.5
# A topic of notices adds one message per image, $0.0000005, and what its subscribers cost; not counted.
_PUTS, _GETS, _MESSAGES, _WRITES = 3, 6, 8, 5  # per image: two changes of its row, and those of the feed
_BOOT_MINUTES = 2.0  # of a stopped host
# While the host boots, each image is queued again at this interval, which changes no row: tenths of a send,
# of a receipt and of a deletion. Only the first time the worklist notes that it waits: that is one more
# change of its row, and two of the feed, which is sorted by their time.
_TURN_SECONDS, _TURN_MESSAGES, _WAIT_WRITES = 22.0, 0.3, 3
_MONTH_HOURS = 730

_SPOT = "(these are On-Demand prices: Spot Instances cost less, and their price changes)"


@dataclass(frozen=True)
class Cost:
    """Hold the costs, in US dollars."""

    at_rest: float  # per month without an image: the host is stopped, its disk kept
    images: float  # 1,000 images that come together: the host works, then waits out its idle minutes
    storage: float  # of those 1,000 images, per month
    always_on: float  # per month, if images come so often that the host never stops
    hosts: int = 1  # at a time, in `always_on`
    spot: bool = False
    burst: str = ""  # a word on the part of `always_on` that a T type costs beyond its price

    def lines(self) -> list[str]:
        """Return the costs as lines for people."""
        who = "a host that is never idle" if self.hosts == 1 else f"{self.hosts} hosts that are never idle"
        most = "about" if self.hosts == 1 else "at most about"
        return [
            f"at rest: {most} ${self.at_rest:.2f} a month",
            f"1,000 images that come together: about ${self.images:.2f},"
            f" and ${self.storage:.2f} a month to keep them",
            f"{who}: about ${self.always_on:.0f} a month",
            *([self.burst] if self.burst else []),
            *([_SPOT] if self.spot else []),
            f"({PRICED})",
        ]


def estimate(
    instance_type: str,
    idle_minutes: float = 20,
    megabytes: float = 1.0,
    images_a_second: float = 10.0,
    hosts: int = 1,
    spot: bool = False,
) -> Cost:
    """Return the cost with hosts of that type, at On-Demand prices; raise UsageError if it is unknown."""
    if instance_type not in HOST_TYPES:
        raise UsageError(f"--instance-type {instance_type} is none of: {', '.join(HOST_TYPES)}")
    host = HOST_TYPES[instance_type]
    count = 1000
    rest = (
        _DISK_GB * _DISK
        + _ALARMS * _ALARM
        + _METRICS * _METRIC
        + _RELEASES_GB * _STORAGE
        + _MAPPINGS * _POLLS * _MESSAGE
    )
    busy = (count / images_a_second / 60 + _BOOT_MINUTES) / 60
    hours = busy + idle_minutes / 60
    extra = host.burst.extra(hours, busy) if host.burst else 0.0
    functions = count / _BATCH * (_INVOCATION + _BATCH_SECONDS * _MEMORY_GB * _GIGABYTE_SECOND)
    requests = count * (_PUTS * _PUT + _GETS * _GET + _MESSAGES * _MESSAGE + _WRITES * _WRITE)
    turns = count * _BOOT_MINUTES * 60 / _TURN_SECONDS
    waiting = turns * _TURN_MESSAGES * _MESSAGE + count * _WAIT_WRITES * _WRITE
    month = host.burst.extra(_MONTH_HOURS, _MONTH_HOURS) if host.burst else 0.0
    disks = (hosts - 1) * _DISK_GB * _DISK  # of the other hosts, which stay while these are stopped
    return Cost(
        at_rest=rest + (0 if spot else disks),
        images=hours * host.hourly + extra + functions + requests + waiting,
        storage=count * megabytes / 1000 * 1.1 * _STORAGE,  # 10% more for verdicts and previews
        always_on=rest + disks + hosts * (_MONTH_HOURS * host.hourly + month),
        hosts=hosts,
        spot=spot,
        burst=_burst_line(instance_type, host.burst, hosts * month) if host.burst else "",
    )


def _burst_line(instance_type: str, burst: Burst, month: float) -> str:
    return (
        f"(a {instance_type} is burstable, in unlimited mode: its price includes {burst.baseline:.0%} of"
        f" {burst.vcpus} vCPUs; the rest adds up to ${month:.0f} a month, which is in that figure)"
    )
