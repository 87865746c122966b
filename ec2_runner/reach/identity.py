"""Where an EC2 host says who it is and how it is: its own place in the bucket."""

from pydantic import BaseModel, ConfigDict, Field

READY, STATUS = "ready.json", "status.json"
HOSTS = "system/hosts/"


class Identity(BaseModel):
    """What a host publishes as `ready.json` when its worker starts."""

    model_config = ConfigDict(extra="ignore")

    host_key: str = Field(pattern=r"^[a-z0-9-]+ [A-Za-z0-9+/=]+$")  # `ssh-ed25519 AAAA...`
    release: int


def place_of_host(host_id: str) -> str:
    """The prefix of what the host of this id writes.

    The id is `<unique id of its role>:<instance id>`, which is IAM's `aws:userid` there: so a host's role
    lets it write at its own place and at no other's.
    docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """
    return f"{HOSTS}{host_id}/"
