"""The names of a stack's resources, as template.yaml makes them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StackNames:
    """The names of the resources of the stack `stack`."""

    stack: str

    @property
    def index(self) -> str:
        """The DynamoDB table of the worklist."""
        return f"{self.stack}-index"

    @property
    def lease(self) -> str:
        """The DynamoDB table that says which instance is the host."""
        return f"{self.stack}-lease"

    @property
    def jobs(self) -> str:
        """The SQS queue of what is to be judged."""
        return f"{self.stack}-jobs"

    @property
    def dead_jobs(self) -> str:
        """The SQS queue of jobs that failed too often."""
        return f"{self.stack}-jobs-dead"

    @property
    def dead_verdicts(self) -> str:
        """The SQS queue of verdicts that the worklist could not take."""
        return f"{self.stack}-verdicts-dead"

    @property
    def launch_template(self) -> str:
        """The EC2 launch template of the hosts."""
        return f"{self.stack}-host"

    def bucket(self, account: str, region: str) -> str:
        """The bucket of X-rays, unless the user names another."""
        return f"{self.stack}-{account}-{region}"

    def artifacts(self, account: str, region: str) -> str:
        """The bucket that CloudFormation reads from."""
        return f"{self.stack}-artifacts-{account}-{region}"
