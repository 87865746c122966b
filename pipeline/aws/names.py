"""Name the resources of a stack as template.yaml makes them."""

from dataclasses import dataclass

ARTIFACTS = "-artifacts"  # no stack's name ends so: its bucket of X-rays would be another's artifact bucket


@dataclass(frozen=True)
class StackNames:
    """Return the names of the resources of the stack `stack`."""

    stack: str

    @property
    def index(self) -> str:
        """Return the DynamoDB table of the worklist."""
        return f"{self.stack}-index"

    @property
    def lease(self) -> str:
        """Return the DynamoDB table that records which instance is the host."""
        return f"{self.stack}-lease"

    @property
    def jobs(self) -> str:
        """Return the SQS queue of the jobs."""
        return f"{self.stack}-jobs"

    @property
    def dead_jobs(self) -> str:
        """Return the SQS queue of jobs that failed too often."""
        return f"{self.stack}-jobs-dead"

    @property
    def dead_verdicts(self) -> str:
        """Return the SQS queue of verdicts that could not be written to the worklist."""
        return f"{self.stack}-verdicts-dead"

    @property
    def launch_template(self) -> str:
        """Return the EC2 launch template of the hosts."""
        return f"{self.stack}-host"

    def bucket(self, account: str, region: str) -> str:
        """Return the bucket of X-rays, unless the user names another."""
        return f"{self.stack}-{account}-{region}"

    def artifacts(self, account: str, region: str) -> str:
        """Return the bucket of releases, templates and the functions' package, written by deploys alone."""
        return f"{self.stack}{ARTIFACTS}-{account}-{region}"
