"""The README says what the code does: settings, commands, addresses."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
_READ = re.compile(r'(?:env\.\w+|Secret|os\.environ\.get|getenv)\(\s*"([A-Z][A-Z0-9_]+)"')
# A default that is computed from others is told in words there.
_DEFAULT = re.compile(r'env\.(?:text|integer|decimal|boolean)\(\s*"(\w+)", (?!max\()([^,)]+)')
# Set by the launcher or the platform, not by people.
NOT_FOR_PEOPLE = {"R1_STOP_WITH_PARENT"}


def settings_in_code() -> set[str]:
    files = [*ROOT.glob("r1site/**/*.py"), *ROOT.glob("memory/**/*.py"), *ROOT.glob("deploy/gunicorn/*.py")]
    names = {name for path in files for name in _READ.findall(path.read_text())}
    return {name.removesuffix("_FILE") for name in names} - NOT_FOR_PEOPLE


def settings_table() -> dict[str, str]:
    rows = re.findall(r"^\| (`[A-Z][^|]*) \|([^|]*)\|", README, re.MULTILINE)
    return {name: default.strip() for names, default in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", names)}


def test_every_setting_the_code_reads_is_in_the_table_and_no_other():
    ours = ("MEMORY_", "DJANGO_", "R1_", "GUNICORN_", "RERANK_", "CROSS_ENCODER_")
    read = {name for name in settings_in_code() if name.startswith(ours)}
    assert len(read) > 25
    shown = {name for name in settings_table() if name.startswith(ours)} - {"DJANGO_SETTINGS_MODULE"}
    assert read == shown


def test_the_defaults_in_the_table_are_those_in_the_code():
    source = (ROOT / "r1site/settings/base.py").read_text()
    defaults = {name: value.strip('"').replace("_", "") for name, value in _DEFAULT.findall(source)}
    assert len(defaults) > 10
    table = settings_table()
    for name, value in defaults.items():
        shown = table[name].strip("`").replace("_", "")
        assert shown.lower() == value.lower(), name


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make (?:-s )?([a-z][a-z-]+)", README))
    assert {"run", "test", "serve", "token"} <= named <= targets


def test_every_path_in_the_readme_exists():
    for path in re.findall(r"`((?:memory|deploy|r1site|tests)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


def test_every_command_in_the_readme_exists():
    for name in re.findall(r"manage\.py (\w+)", README):
        assert name == "migrate" or (ROOT / f"memory/management/commands/{name}.py").exists(), name


def test_the_versions_to_install_are_those_of_the_requirements():
    pinned = {line for path in (ROOT / "requirements").glob("*.txt") for line in path.read_text().splitlines()}
    named = re.findall(r"pip install (\S+==\S+)", README)
    assert named and set(named) <= pinned


def test_the_log_settings_for_a_server_of_ones_own_are_the_embedded_servers():
    source = (ROOT / "r1site/embedded/tuning.py").read_text()
    named = re.findall(r"`(log_\w+) = ([\w-]+)`", README)
    assert len(named) == 5
    for name, value in named:
        assert f'"{name}": "{value}"' in source
