"""The settings: where each may be set, which source comes first, and the messages about wrong ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import SECTIONS, DeployedSettings, Settings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXR_THREADS")  # which the other tests set


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty current folder; a `cxr.toml` in it counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CXR_CONFIG")
    return tmp_path


def write(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "cxr.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def refusal() -> str:
    with pytest.raises(UsageError) as error:
        load_settings()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_setting_has_one_section_and_a_description() -> None:
    keys = [key for group in (*SECTIONS.values(), DeployedSettings) for key in group.model_fields]
    assert sorted(keys) == sorted(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())
    assert not set(SECTIONS) & set(DeployedSettings.model_fields)


def test_options_come_before_variables_before_the_file_before_defaults(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "[judging]\nthreads = 2\nmax_bytes = 1000\nmax_pixels = 7\n")
    monkeypatch.setenv("CXR_MAX_BYTES", "2000")
    monkeypatch.setenv("CXR_THREADS", "3")
    settings = load_settings(threads=4)
    assert (settings.threads, settings.max_bytes, settings.max_pixels) == (4, 2000, 7)
    assert settings.image_seconds == 20


def test_each_kind_of_value(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        here,
        'root = "~/xrays"\nlog_level = "debug"\n'
        '[page]\npage_hosts = ["a.example", "b.example"]\nport = 0\nproxy_header = ""\n'
        "[judging]\nprevalence = 0.2\nkeep_uid = true\n"
        "[stack]\nidle_minutes = 5\n[stack.parameters]\nMaximumConcurrency = 4\nEventMapping = false\n",
    )
    settings = load_settings()
    assert settings.root == Path.home() / "xrays"
    assert (settings.log_level, settings.port, settings.proxy_header) == ("DEBUG", 0, None)
    assert settings.page_hosts == ("a.example", "b.example")
    assert (settings.prevalence, settings.keep_uid) == (0.2, True)
    assert settings.parameters == {"MaximumConcurrency": "4", "EventMapping": "false"}
    assert {"idle_minutes"} == {"idle_minutes", "threads", "image_seconds"} & settings.model_fields_set
    monkeypatch.setenv("CXR_PARAMETERS", "Ami=ami-1, InstanceName=x")
    assert load_settings().parameters == {"Ami": "ami-1", "InstanceName": "x"}


def test_a_file_elsewhere_is_named_by_a_variable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, "[judging]\nthreads = 2\n").rename(here / "other.toml")
    assert load_settings().threads != 2 or load_settings().model_fields_set == set()
    monkeypatch.setenv("CXR_CONFIG", str(here / "other.toml"))
    assert load_settings().threads == 2
    monkeypatch.setenv("CXR_CONFIG", str(here / "none.toml"))
    assert refusal() == f"CXR_CONFIG: there is no file {here}/none.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[judging]\nthred = 2", "[judging] thred is not a setting: did you mean threads?"),
        ("threads = 2", "threads is not a setting: it belongs in [judging]"),
        ("thread = 2", "thread is not a setting: did you mean threads in [judging]?"),
        ("CXR_THREADS = 2", "CXR_THREADS is not a setting: did you mean threads in [judging]?"),
        ('[page]\nroot = "x"', "[page] root is not a setting: it belongs above the first section"),
        ("[stack]\nzzzz = 2", "[stack] zzzz is not a setting: docs/settings.md lists them all"),
        ("[stack]\nsubnets = []", "[stack] subnets is not a setting: the stack sets it, as CXR_SUBNETS"),
        ("[juding]\nthreads = 2", "[juding] is not a section: did you mean [judging]?"),
        ("[threads]\nx = 2", "[threads] is not a section: it belongs in [judging]"),
        ("judging = 2", "judging is a section: write [judging] on a line of its own"),
        ('host = "ssh"', "host is a section: write [host] on a line of its own, and host below it"),
        ("[judging]\nthreads = 0", "[judging] threads: input should be greater than 0"),
        ("[judging]\nthreads = 1.5", "[judging] threads: input should be a valid integer"),
        ('log_level = "loud"', "log_level: input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ('[host]\nhost = "far"', "[host] host: input should be 'local', 'ssh' or 'ec2'"),
        ("[judging]\nprevalence = 74", "[judging] prevalence: input should be less than or equal to 0.999"),
        ('[stack]\nparameters = "x"', "[stack] parameters: write NAME=VALUE,NAME=VALUE"),
        ("\n[page]\nport = \npoll = true", "cxr.toml is not valid TOML: invalid value (at line 3, column 8)"),
        ("\n[page]\nport =", "cxr.toml is not valid TOML: invalid value (at the end, line 3)"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(here: Path, text: str, said: str) -> None:
    write(here, text)
    assert said in refusal()
    assert refusal().startswith("cxr.toml")


def test_a_file_of_another_encoding_or_with_a_mark_of_windows(here: Path) -> None:
    (here / "cxr.toml").write_bytes("\ufeff[judging]\r\nthreads = 2\r\n".encode())
    assert load_settings().threads == 2
    (here / "cxr.toml").write_bytes("root = 'Röntgen'".encode("latin-1"))
    assert refusal() == "cxr.toml: save it as UTF-8"


def test_a_wrong_variable_and_a_wrong_option_are_named_as_such(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "[judging]\nthreads = 2")
    monkeypatch.setenv("CXR_THREADS", "0")
    assert refusal() == "CXR_THREADS: input should be greater than 0"
    with pytest.raises(UsageError, match="--idle-minutes: input should be greater than 0"):
        load_settings(threads=1, idle_minutes=0)


@pytest.mark.parametrize(
    "line", ['log_key = "a secret"', '[host]\nworker_token = "a-secret-of-many-letters"']
)
def test_a_secret_in_a_file_that_all_can_read_is_refused(here: Path, line: str) -> None:
    write(here, line, 0o644)
    assert re.fullmatch(
        r"cxr.toml holds (log_key|worker_token), and every user of this machine can read it: "
        r"chmod o-r cxr.toml, or set CXR_\w+ instead",
        refusal(),
    )
    write(here, line, 0o640)
    load_settings()


def test_a_wrong_secret_is_not_shown(here: Path) -> None:
    write(here, '[host]\nworker_token = "päss word of many letters"', 0o600)
    assert refusal() == "cxr.toml: [host] worker_token: use printable ASCII characters without spaces"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CXR_STORE": "s3", "CXR_INDEX": "dynamodb", "CXR_BUCKET": "b"}, None),
        ({"CXR_STORE": "folder", "CXR_INDEX": "sqlite"}, None),
        ({"CXR_STORE": ""}, None),
        ({"CXR_STORE": "s3"}, "for s3, name it in CXR_BUCKET or with --bucket"),
        ({"CXR_STORE": "folder", "CXR_BUCKET": "b"}, "for folder, name no bucket"),
        ({"CXR_INDEX": "sqlite", "CXR_BUCKET": "b"}, "for sqlite, name no bucket"),
    ],
)
def test_a_setting_of_an_earlier_release_may_only_say_what_is_so(
    variables: dict[str, str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host launched by an earlier release has CXR_STORE in its environment and tries this release."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if said is None:
        load_settings()
    else:
        assert refusal() == f"{next(iter(variables))} is no longer a setting: unset it; {said}"


@pytest.mark.whole
def test_without_a_file_nothing_of_toml_is_imported(tmp_path: Path) -> None:
    code = "import sys, pipeline.settings as s; s.load_settings(); sys.exit('tomllib' in sys.modules)"
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("address", ["user@::1", "user@host:abc", "host", "user@host:99999", "@host"])
def test_an_address_of_ssh_that_cannot_be_one(address: str) -> None:
    with pytest.raises(UsageError, match="write user@address or user@address:port"):
        load_settings(ssh=address)
    for good in ("user@host", "user@10.0.0.1:2222", "user@[::1]:22"):
        assert load_settings(ssh=good).ssh == good
    with pytest.raises(UsageError, match=r"write the kind and the key"):
        load_settings(ssh_host_key="AAAAC3Nz")


def test_tables_name_what_results_are_sent_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        here,
        '[page]\nport = 0\n[[send]]\nname = "PACS"\nto = "dicom://PACS@10.1.2.20"\nlabels = ["pneumonia"]\n'
        '[[send]]\nname = "web"\nto = "https://pacs.example/dicom-web"\ntoken = "t0ken"\n',
        0o600,
    )
    first, second = load_settings().send
    assert first.peer == ("PACS", "10.1.2.20", 104)
    assert first.labels == ("pneumonia",)
    assert second.token == "t0ken"
    assert "t0ken" not in repr(load_settings())
    monkeypatch.setenv("CXR_SEND", '[{"name": "PACS", "to": "dicoms://A%20B@[::1]"}]')
    (only,) = load_settings().send
    assert only.peer == ("A B", "::1", 2762)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('to = "dicom://A@b"', "send number 1, name: field required"),
        ('name = "a"\nto = "dicom://b:104"', "number 1, to: write dicom://AETITLE@host:port"),
        ('name = "a"\nto = "dicom://ANAMEOFMORETHAN16@b"', "an AE title has 1 to 16"),
        ('name = "a"\nto = "dicom://A@b:99999"', "write dicom://AETITLE@host:port, dicoms://"),
        ('name = "a"\nto = "ftp://A@b"', "write dicom://AETITLE@host:port, dicoms://"),
        ('name = "a"\nto = "http://b/c"', "patients' names would be readable on the network: use https://"),
        ('name = "a"\nto = "https://u:p@b/c"', "user and password have settings of their own"),
        ('name = "a"\nto = "https://b"\nuser = "u"', "number 1: name user and password, or a token"),
        ('name = "a"\nto = "dicom://A@b"\ntoken = "t"', "number 1: token is for https:// alone"),
        ('name = "a"\nto = "dicom://A@b"\nca = "c"', "number 1: ca needs TLS: write dicoms://"),
        ('name = "a"\nto = "dicoms://A@b"\nkey = "c"', "certificate and key belong together"),
        ('name = "a\\n"\nto = "dicom://A@b"', "number 1, name: use at most 40 letters"),
        ('name = "a"\nto = "dicom://A@b"\nlabel = ["normal"]', "number 1, label: extra inputs"),
        ('name = "a"\nto = "dicom://A@b"\n[[send]]\nname = "a"\nto = "dicom://A@c"', "have the same name"),
    ],
)
def test_wrong_tables_are_told(here: Path, table: str, said: str) -> None:
    write(here, f"[[send]]\n{table}\n", 0o600)
    assert said in refusal()


SECRET = "whsec_" + "A" * 32  # 24 bytes


def test_tables_name_who_gets_notices(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        here,
        f'[page]\nport = 0\n[[notify]]\nname = "hook"\nto = "https://ris/a?b=c"\nsecret = "{SECRET}"\n'
        '[[notify]]\nname = "mail"\nto = "mailto://u:p4ss@b"\nstatuses = ["failed"]\n',
        0o600,
    )
    hook, mail = load_settings().notify
    assert (hook.is_webhook, hook.signing_key, hook.with_name) == (True, bytes(24), False)
    assert (mail.is_webhook, mail.statuses) == (False, ("failed",))
    assert "p4ss" not in repr(load_settings())
    assert SECRET not in repr(load_settings())
    monkeypatch.setenv("CXR_NOTIFY", '[{"name": "chat", "to": "slack://t0ken"}]')
    (only,) = load_settings().notify
    assert only.to == "slack://t0ken"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('to = "https://b"', "notify number 1, name: field required"),
        ('name = "a"\nto = "https://b"', "number 1: a webhook needs a secret: whsec_"),
        ('name = "a"\nto = "https://b"\nsecret = "s3cret"', "number 1, secret: write whsec_ and 24 to 64"),
        ('name = "a"\nto = "https://b"\nsecret = "whsec_czNjcmV0"', "write whsec_ and 24 to 64"),
        (
            f'name = "a"\nto = "http://b/s3cret"\nsecret = "{SECRET}"',
            "number 1, to: notices would be readable",
        ),
        (f'name = "a"\nto = "http://127.0.0.1"\nsecret = "{SECRET}"\nca = "c"', "ca needs TLS"),
        (f'name = "a"\nto = "https://u:s3cret@b"\nsecret = "{SECRET}"', "they need no user and password"),
        (f'name = "a"\nto = "https:///s3cret"\nsecret = "{SECRET}"', "this is no address"),
        (f'name = "a"\nto = "https://[s3cret"\nsecret = "{SECRET}"', "this is no address"),
        (f'name = "a"\nto = "https://b:99999/s3cret"\nsecret = "{SECRET}"', "this is no address"),
        ('name = "a"\nto = "s3cret"', "write https://host/path, or an address of apprise"),
        ('name = "a"\nto = "mailto://s3 cret"', "write https://host/path, or an address of apprise"),
        ('name = "a"\nto = "slack://s3cret"\nwith_name = true', "with_name is for https:// alone"),
        (f'name = "a"\nto = "slack://s3cret"\nsecret = "{SECRET}"', "secret is for https:// alone"),
        ('name = "a"\nto = "a://b"\n[[notify]]\nname = "a"\nto = "a://c"', "have the same name"),
    ],
)
def test_wrong_receivers_are_told_without_their_secrets(here: Path, table: str, said: str) -> None:
    write(here, f"[[notify]]\n{table}\n", 0o600)
    assert said in refusal()
    assert "s3cret" not in refusal()
    assert SECRET not in refusal()


def test_addresses_with_secrets_are_not_for_all(here: Path) -> None:
    write(here, '[[notify]]\nname = "a"\nto = "slack://s3cret"\n', 0o644)
    assert "holds [[notify]] to, and every user of this machine can read it" in refusal()
    assert "s3cret" not in refusal()


def test_the_address_of_the_page_is_checked(here: Path) -> None:
    assert load_settings(page_url="https://cxr.example/x/").page_url == "https://cxr.example/x/"
    for wrong in ("cxr.example", "https://", "https://a b", "https://u@b", "https://b/?c", "https://b/#c"):
        with pytest.raises(UsageError, match="write https://host"):
            load_settings(page_url=wrong)


def test_a_table_with_one_bracket_or_a_secret_for_all_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, '[send]\nname = "a"\n')
    assert "write [[send]], with two brackets" in refusal()
    write(here, '[[send]]\nname = "a"\nto = "https://b"\nuser = "u"\npassword = "p4ss"\n', 0o644)
    assert "holds [[send]] password, and every user of this machine can read it" in refusal()
    assert "p4ss" not in refusal()
    assert "set CXR_SEND instead" in refusal()
    monkeypatch.setenv("CXR_SEND", "{")
    write(here, "")
    assert refusal() == "CXR_SEND: write [[send]] tables; in a variable, a JSON list of objects"
