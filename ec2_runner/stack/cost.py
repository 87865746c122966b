"""What a stack costs, estimated: at rest, and for the images that it judges."""

from dataclasses import dataclass

from pipeline.errors import UsageError

PRICED = (
    "us-east-1, list prices noted in 2025, without taxes and free tiers; check them before you rely on them"
)
HOURLY = {  # US dollars an hour, Linux on demand: aws.amazon.com/ec2/pricing/on-demand
    "t3.medium": 0.0416,
    "t3.large": 0.0832,
    "m7i.large": 0.1008,
    "m7i.xlarge": 0.2016,
    "c7i.large": 0.08925,
    "c7i.xlarge": 0.1785,
    "c7i.2xlarge": 0.357,
    "t4g.medium": 0.0336,
    "t4g.large": 0.0672,
    "m7g.large": 0.0816,
    "m7g.xlarge": 0.1632,
    "c7g.large": 0.0725,
    "c7g.xlarge": 0.145,
    "c7g.2xlarge": 0.29,
}
_DISK = 0.08  # a gigabyte of gp3 a month: aws.amazon.com/ebs/pricing
_SECRET = 0.40  # a month: aws.amazon.com/secrets-manager/pricing
_ALARM, _METRIC = 0.10, 0.30  # a month: aws.amazon.com/cloudwatch/pricing
_STORAGE = 0.023  # a gigabyte in S3 a month: aws.amazon.com/s3/pricing
_PUT, _GET = 0.005e-3, 0.0004e-3  # an S3 request
_MESSAGE = 0.40e-6  # an SQS request: aws.amazon.com/sqs/pricing
_WRITE = 0.625e-6  # a DynamoDB write on demand: aws.amazon.com/dynamodb/pricing/on-demand
_INVOCATION, _GIGABYTE_SECOND = 0.20e-6, 16.6667e-6  # aws.amazon.com/lambda/pricing

_DISK_GB, _RELEASES_GB, _ALARMS, _METRICS, _MAPPINGS = 12, 0.5, 10, 6, 3
_POLLS = 650_000  # a month: Lambda asks an idle queue with five connections, each for 20 seconds
_BATCH, _BATCH_SECONDS, _MEMORY_GB = 32, 5.0, 0.5
_PUTS, _GETS, _MESSAGES, _WRITES = 3, 6, 8, 4  # of an image
_BOOT_MINUTES = 2.0


@dataclass(frozen=True)
class Cost:
    """US dollars."""

    at_rest: float  # a month, with no image: the host stopped, its disk kept
    images: float  # 1,000 images that come together: the host works, then waits for its idle minutes
    storage: float  # of those 1,000 images, a month
    always_on: float  # a month, if images come so often that the host never stops

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"at rest: about ${self.at_rest:.2f} a month",
            f"1,000 images that come together: about ${self.images:.2f},"
            f" and ${self.storage:.2f} a month to keep them",
            f"a host that never gets idle: about ${self.always_on:.0f} a month",
            f"({PRICED})",
        ]


def estimate(
    instance_type: str, idle_minutes: float = 20, megabytes: float = 1.0, images_a_second: float = 10.0
) -> Cost:
    """The cost with hosts of that type and images of that size; UsageError for an unknown type."""
    if instance_type not in HOURLY:
        raise UsageError(f"--instance-type {instance_type} is none of: {', '.join(HOURLY)}")
    hourly = HOURLY[instance_type]
    count = 1000
    rest = (
        _DISK_GB * _DISK
        + _SECRET
        + _ALARMS * _ALARM
        + _METRICS * _METRIC
        + _RELEASES_GB * _STORAGE
        + _MAPPINGS * _POLLS * _MESSAGE
    )
    hours = (count / images_a_second / 60 + _BOOT_MINUTES + idle_minutes) / 60
    functions = count / _BATCH * (_INVOCATION + _BATCH_SECONDS * _MEMORY_GB * _GIGABYTE_SECOND)
    requests = count * (_PUTS * _PUT + _GETS * _GET + _MESSAGES * _MESSAGE + _WRITES * _WRITE)
    return Cost(
        at_rest=rest,
        images=hours * hourly + functions + requests,
        storage=count * megabytes / 1000 * 1.1 * _STORAGE,  # a tenth more for verdicts and previews
        always_on=rest + 730 * hourly,
    )
