"""Define how an EC2 host publishes its identity and state: in its own place in the bucket."""

from pydantic import BaseModel, ConfigDict, Field

READY, STATUS = "ready.json", "status.json"
HOSTS = "system/hosts/"


class Identity(BaseModel):
    """Hold the content of `ready.json`, which a host publishes when its worker starts."""

    model_config = ConfigDict(extra="ignore")

    host_key: str = Field(pattern=r"^[a-z0-9-]+ [A-Za-z0-9+/=]+$")  # `ssh-ed25519 AAAA...`
    release: int


def place_of_host(host_id: str) -> str:
    """Return the prefix that the host of this id writes under.

    The id is `<unique id of its role>:<instance id>`, which is the host's `aws:userid` in IAM: so a host's
    role lets it write to its own place and to no other.

    docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """
    return f"{HOSTS}{host_id}/"
