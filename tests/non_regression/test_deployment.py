"""What deploys the service is held to it: paths, packages, settings, commands. Nothing is built or started here."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.non_regression.documents import ROOT, guide, quoted, rows

DOCKER, SYSTEMD = ROOT / "deploy/docker", ROOT / "deploy/systemd"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yml").read_text())
RAILWAY = tomllib.loads((ROOT / "deploy/railway/railway.toml").read_text())
UNITS = sorted(
    [*SYSTEMD.rglob("*.service"), *SYSTEMD.rglob("*.timer"), *SYSTEMD.rglob("*.path"), *SYSTEMD.rglob("*.conf")]
)
ENVIRONMENTS = (ROOT / "deploy/.env.example", ROOT / "deploy/.env.commands.example")
# Of the images beside the service, whose settings are not ours; of shells, libraries and the build.
NOT_OURS = re.compile(r"GF_|POSTGRES_|PYTHON|PIP_|HOME$|PATH$")
# These stand where the service is installed, and are another machine's.
INSTALLED = "/opt/r1-memory/"
COMMANDS = {path.stem for path in (ROOT / "memory/management/commands").glob("[a-z]*.py")}


def settings() -> set[str]:
    """Every name that the page on settings shows; a secret can also be named by its file."""
    shown = {(name, row[3].startswith("*secret*")) for row in rows(guide("settings")) for name in quoted(row[0])}
    return {name for name, _ in shown} | {f"{name}_FILE" for name, is_secret in shown if is_secret}


def named_in(path: Path) -> dict[str, str]:
    """The settings of an environment file, those that are commented out too."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.name)
def test_an_environment_file_names_settings_only(path):
    assert named_in(path).keys() <= settings()


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.name)
def test_an_environment_file_holds_no_secret_but_names_its_file(path):
    secrets = {name.removesuffix("_FILE") for name in settings() if name.endswith("_FILE")}
    assert not named_in(path).keys() & secrets


def test_every_setting_that_is_required_is_in_the_environment_file():
    required = {name for row in rows(guide("settings")) if row[1].startswith("required") for name in quoted(row[0])}
    assert len(required) >= 4
    assert {f"{name}_FILE" for name in required} <= named_in(ENVIRONMENTS[0]).keys()


def test_the_service_gets_no_address_of_a_stronger_role():
    stronger = {"DATABASE_OWNER_URL", "DATABASE_MAINT_URL", "DATABASE_BACKUP_URL"}
    assert not {f"{name}_FILE" for name in stronger} & named_in(ENVIRONMENTS[0]).keys()
    assert not stronger & set(COMPOSE["services"]["memory"]["secrets"])
    assert "commands.env" not in (SYSTEMD / "r1-memory.service").read_text()


def test_compose_and_the_image_set_settings_only():
    named = {name for service in COMPOSE["services"].values() for name in service.get("environment", {})}
    for line in re.findall(r"^(?:ENV|RUN (?=DJANGO)) ?(.*)$", DOCKERFILE, re.MULTILINE):
        named |= set(re.findall(r"(?:^| )([A-Z][A-Z0-9_]+)=", line))
    ours = {name for name in named if not NOT_OURS.match(name)}
    assert len(ours) > 8
    assert ours <= settings()


def test_each_secret_that_compose_names_is_made_by_its_script(tmp_path):
    """Without root nothing can be given away: here the script gives it to nobody."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "secrets.sh").write_text((DOCKER / "secrets.sh").read_text())
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "chown").write_text("#!/bin/sh\n")
    (programs / "chown").chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["sh", folder / "secrets.sh"], env=environment, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert made.keys() == COMPOSE["secrets"].keys()
    assert {source["file"] for source in COMPOSE["secrets"].values()} == {f"./secrets/{name}" for name in made}
    assert made["r1_app_password"] in made["DATABASE_URL"]
    # No value twice, but where two programs have to know the same; a second run leaves all as it is.
    assert len(set(made.values())) == len(made) - 1
    subprocess.run(["sh", folder / "secrets.sh"], env=environment, check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in (folder / "secrets").iterdir()}


def test_every_container_gives_up_what_it_does_not_need():
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not str(service["user"]).startswith(("0", "root")), name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        image = service["image"]
        assert re.search(r":(\$\{R1_VERSION:-latest\}|[v\d][\w.-]+)$", image), f"{name}: {image} names no version"


def test_nothing_but_the_service_and_its_commands_reaches_the_database():
    reaches = {name for name, service in COMPOSE["services"].items() if "database" in service.get("networks", ())}
    assert reaches == {"postgres", "memory", "migrate", "indexes"}
    assert COMPOSE["networks"]["database"]["internal"] is True
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_the_database_in_compose_logs_no_content():
    options = COMPOSE["services"]["postgres"]["command"]
    named = re.findall(r"`(log_\w+) = ([\w-]+)`", guide("serving"))
    assert named and all(f"{name}={value}" in options for name, value in named)


def test_every_file_that_compose_mounts_is_there():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).resolve().exists(), source
            else:
                assert source in COMPOSE["volumes"], source


def test_the_image_copies_only_what_is_there_and_let_in():
    let_in = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {line.split()[1].rstrip("/") for line in re.findall(r"^COPY (?!--from).*$", DOCKERFILE, re.MULTILINE)}
    assert copied == {*let_in}
    assert all((ROOT / path).exists() for path in copied)
    context = DOCKER / COMPOSE["services"]["memory"]["build"]["context"]
    assert context.resolve() == ROOT
    assert (ROOT / COMPOSE["services"]["memory"]["build"]["dockerfile"]).samefile(DOCKER / "Dockerfile")


def test_the_image_installs_by_the_locks_and_no_other_version():
    installs = re.findall(r"pip install ([^\\\n]+)", DOCKERFILE)
    assert installs == [
        "--no-deps --require-hashes -r requirements/ml.lock ",
        """${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements/ml.txt)\"""",
        "--require-hashes -r requirements/gpu.lock",
    ]
    both = [(ROOT / f"requirements/{name}").read_text() for name in ("ml.txt", "gpu.lock")]
    pinned = re.findall(r"^torch==\S+", "\n".join(both), re.MULTILINE)
    assert len(pinned) == 2 and len(set(pinned)) == 1
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-", DOCKERFILE, re.MULTILINE)


def test_the_image_ends_as_a_user_that_the_secrets_can_be_given_to():
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert user == COMPOSE["services"]["memory"]["user"] == "10001:10001"
    assert f'keep "$name" {user.partition(":")[0]}' in (DOCKER / "secrets.sh").read_text()
    assert re.search(r"^STOPSIGNAL SIGTERM$", DOCKERFILE, re.MULTILINE)


def commands_in(text: str) -> set[str]:
    return set(re.findall(r'manage\.py"?,? (\w+)', text))


@pytest.mark.parametrize(
    "path",
    [
        *UNITS,
        DOCKER / "Dockerfile",
        DOCKER / "compose.yml",
        SYSTEMD / "backup.sh",
        ROOT / "deploy/railway/railway.toml",
    ],
    ids=lambda path: path.name,
)
def test_every_command_and_path_of_ours_exists(path):
    text = path.read_text()
    assert commands_in(text) <= COMMANDS | {"migrate"}
    for named in re.findall(r"(?<![\w./])(?:/opt/r1-memory/)?(deploy/[\w./-]+\w)", text):
        assert (ROOT / named).exists(), named


@pytest.mark.parametrize("timer", sorted(SYSTEMD.glob("*.timer")), ids=lambda path: path.stem)
def test_a_timer_starts_a_unit_that_is_there(timer):
    template, _, instance = timer.stem.partition("@")
    assert (SYSTEMD / f"{template}{'@' if instance else ''}.service").is_file()
    # `doctor` is a command of the monitoring's.
    assert not instance or instance in COMMANDS


@pytest.mark.parametrize("unit", sorted(SYSTEMD.glob("r1-memory*.service")), ids=lambda path: path.stem)
def test_a_unit_runs_as_an_ordinary_user_and_gains_nothing(unit):
    lines = unit.read_text().splitlines()
    assert {"User=r1", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "LimitCORE=0"} <= set(
        lines
    )


def test_gunicorn_has_less_time_to_end_its_requests_than_whoever_stops_it():
    conf = (ROOT / "deploy/gunicorn/gunicorn.conf.py").read_text()
    graceful = int(re.search(r"^graceful_timeout = (\d+)$", conf, re.MULTILINE)[1])
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", (SYSTEMD / "r1-memory.service").read_text(), re.MULTILINE)[1])
    compose = int(COMPOSE["services"]["memory"]["stop_grace_period"].removesuffix("s"))
    assert graceful < min(stop, compose, RAILWAY["deploy"]["drainingSeconds"])


@pytest.mark.parametrize("script", [*DOCKER.glob("*.sh"), *SYSTEMD.glob("*.sh")], ids=lambda path: path.name)
def test_a_script_is_one_that_the_shell_can_read(script):
    assert subprocess.run(["sh", "-n", script], capture_output=True, text=True).stderr == ""


def test_no_data_folder_and_no_secret_of_one_is_tracked():
    """`R1_VAR_DIR` may put one anywhere, in a checkout too."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    files = listed.stdout.splitlines()
    assert "manage.py" in files
    assert [file for file in files if "/secrets/" in file or file.endswith("PG_VERSION")] == []
