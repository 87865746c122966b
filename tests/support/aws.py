"""Provide SAM, the Lambda emulator and the template without an AWS account."""

import platform
from functools import cache
from pathlib import Path
from typing import Any

from cfnlint.decode import decode

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
_SAM = ROOT / ".venv" / "sam"


def sam() -> Path:
    """Return the path of the SAM command line."""
    return _found(_SAM / "bin" / "sam")


def emulator() -> Path:
    """Return the path of the Lambda runtime interface emulator; it comes with SAM and needs no container."""
    machine = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
    folder = "lib/python*/site-packages/samcli/local/rapid"
    path = _found(next(_SAM.glob(f"{folder}/aws-lambda-rie-{machine}"), _SAM / folder))
    path.chmod(0o755)
    return path


@cache
def template() -> dict[str, Any]:
    """Return the template as a dictionary, with intrinsic functions in their long form, `{"Ref": ...}`."""
    content, problems = decode(str(TEMPLATE))
    assert not problems
    assert isinstance(content, dict)
    return content


def resources(kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type, such as `AWS::SQS::Queue`, by logical name."""
    found = template()["Resources"].items()
    return {name: resource["Properties"] for name, resource in found if resource["Type"] == kind}


def statements(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a policy document."""
    return list(policy["Statement"])


def user_data() -> str:
    """Return the script that a host runs at its first boot, with CloudFormation's `${...}`."""
    (launch,) = resources("AWS::EC2::LaunchTemplate").values()
    return str(launch["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"])


def as_list(value: Any) -> list[Any]:
    """Return a list; IAM allows a single value in its place."""
    return value if isinstance(value, list) else [value]


def _found(path: Path) -> Path:
    assert path.is_file(), f"{path} is missing: run `make install-test`"
    return path
