"""The locks hold what the requirements ask for, and nothing is installed past them. No network is needed."""

import re
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.supply.audit import told
from deploy.supply.lock import FOLDER, LOCKS, WITHOUT_TORCH, left_out

ROOT = Path(__file__).resolve().parents[2]


def direct(source: str) -> list[Requirement]:
    """What `requirements/<source>.txt` asks for, its `-r` lines followed."""
    found = []
    for line in (FOLDER / f"{source}.txt").read_text().splitlines():
        if line.startswith("-r "):
            found += direct(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


def entries(lock: str) -> list[str]:
    """The entries of a lock, each with its hashes, on one line each."""
    text = re.sub(r"^\s*#.*$", "", (FOLDER / f"{lock}.lock").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def locked(lock: str) -> dict[str, str]:
    """Name to version, of what this machine's pip would install from a lock."""
    wanted = [Requirement(entry.partition(" --hash")[0]) for entry in entries(lock)]
    return {
        canonicalize_name(item.name): str(item.specifier).removeprefix("==")
        for item in wanted
        if item.marker is None or item.marker.evaluate()
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_each_direct_requirement_in_the_version_asked_for(lock):
    asked = {canonicalize_name(item.name): item for source in LOCKS[lock] for item in direct(source)}
    assert {str(item.specifier)[:2] for item in asked.values()} == {"=="}
    found = locked(lock)
    for name, item in asked.items():
        if name != "torch" or lock not in WITHOUT_TORCH:
            assert f"=={found.get(name)}" == str(item.specifier), name


@pytest.mark.parametrize("lock", LOCKS)
def test_each_entry_is_one_version_with_its_hashes_and_names_no_index(lock):
    # The key server is one distribution that needs no other, and a browser's driver needs few.
    assert len(entries(lock)) > {"key-server": 0, "browser": 2}.get(lock, 20)
    for entry in entries(lock):
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;]+( ; [^#]*?)?( +--hash=sha256:[0-9a-f]{64})+ *", entry), entry
    assert "://" not in (FOLDER / f"{lock}.lock").read_text()


def test_the_locks_agree_on_what_they_share():
    gpu, apart = locked("gpu"), set(left_out())
    assert "torch" in gpu
    for lock in WITHOUT_TORCH:
        assert not apart & set(locked(lock))
    # What runs models on a CPU alone.
    assert locked("ml").keys() - gpu.keys() <= {"openvino"}
    assert locked("ml").items() >= {name: found for name, found in gpu.items() if name not in apart}.items()
    assert locked("ml").items() <= locked("dev").items()


def test_all_that_the_requirements_need_in_turn_is_installed_as_locked():
    lock, apart = locked("dev"), set(left_out())
    waiting, seen = direct("dev"), set()
    while waiting:
        item = waiting.pop()
        name = canonicalize_name(item.name)
        if (name, *sorted(item.extras)) in seen or (name in apart and name != "torch"):
            continue
        seen.add((name, *sorted(item.extras)))
        if name != "torch":
            assert version(name) == lock.get(name), f"{name} is not installed as requirements/dev.lock has it"
        for needed in map(Requirement, distribution(name).requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *item.extras}):
                waiting.append(needed)
    assert len(seen) > 100


def test_make_installs_by_the_lock_and_again_when_it_changes():
    makefile = (ROOT / "Makefile").read_text()
    [installer] = re.findall(r"^INSTALL_LOCKED := (\S+)$", makefile, re.MULTILINE)
    assert '"--no-deps", "--require-hashes", "-r"' in (ROOT / installer).read_text()
    assert makefile.count("$(INSTALL_LOCKED) ") >= 6
    assert re.search(r"^READY := .*requirements/\*\.txt requirements/\*\.lock", makefile, re.MULTILINE)


def test_an_audit_that_could_not_look_everything_up_does_not_pass(capsys):
    clean = {"name": "clean", "version": "1", "vulns": []}
    unknown = {"name": "unknown", "skip_reason": "not found"}
    weak = {"name": "weak", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert told([clean]) == 0
    assert told([clean, weak, unknown]) == 1
    assert capsys.readouterr().out == "weak 2: CVE-1, fixed in 3\n"
    assert told([clean, unknown]) == 4
    assert "NOTHING WAS LOOKED UP" not in capsys.readouterr().err
    assert told([unknown]) == 4
    assert "NOTHING WAS LOOKED UP" in capsys.readouterr().err
