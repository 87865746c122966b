"""The file of users, and the command that writes it."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from werkzeug.security import check_password_hash

from cxr.commands import app
from pipeline.errors import UsageError
from tests.web.test_access import LINE, PASSWORD, USERS
from web.users import read_users, user_line, write_user

BAD_NAMES = ("a:b", "", " a", "#a", "a\nb", "a" * 65)


def test_a_password_is_asked_for_and_its_line_written(tmp_path: Path) -> None:
    path = tmp_path / "users"
    for name in ("Ada Lovelace", "grace"):
        assert "was added to" in asked(name, PASSWORD, PASSWORD, file=path)
    first = read_users(path)
    asked("grace", *["another long one"] * 2, file=path)
    second = read_users(path)
    assert list(first) == list(second) == ["Ada Lovelace", "grace"]
    assert first["Ada Lovelace"] == second["Ada Lovelace"]
    assert check_password_hash(second["grace"], "another long one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["users"]


@pytest.mark.whole
def test_without_a_file_the_line_is_all_that_is_printed(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "ignore::getpass.GetPassWarning", "-m", "cxr", "password"],
        input=f"ada\n{PASSWORD}\n{PASSWORD}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        start_new_session=True,  # without a terminal, which a hidden prompt would read from
    )
    (tmp_path / "users").write_text(f"# the ward\n\n{answer.stdout}")
    assert check_password_hash(read_users(tmp_path / "users")["ada"], PASSWORD)
    assert PASSWORD not in answer.stderr


def asked(*answers: str, file: Path) -> str:
    answer = CliRunner().invoke(app, ["password", str(file)], input="\n".join(answers) + "\n")
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.mark.parametrize(
    ("name", "password", "reason"),
    [
        ("ada", "short", "12 characters"),
        *((name, PASSWORD, "name cannot be used") for name in BAD_NAMES),
    ],
)
def test_a_name_or_a_password_that_cannot_be_used(name: str, password: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        user_line(name, password)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no users"),
        ("# ada\n", "has no users"),
        (f"ada:{PASSWORD}\n", "line 1: this is not name:hash"),
        (f"\nada:{USERS['ada']}\n", "line 2: this is not name:hash"),  # a weaker hash
        (f"{LINE}\n{LINE}\n", "line 2: the name occurs twice"),
    ],
)
def test_a_file_that_holds_something_else(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(text)
    with pytest.raises(UsageError, match=reason) as error:
        read_users(tmp_path / "users")
    assert PASSWORD not in str(error.value)
    (tmp_path / "users").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="it is not text"):
        read_users(tmp_path / "users")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name another file"):
        write_user(tmp_path / "none" / "users", LINE)
