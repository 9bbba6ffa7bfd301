"""In a process of its own, on the real kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from r1site import huge_pages

# A span of 64 MiB that is full, one of which every 2 MiB hold one page, and one that is full and gone before its turn.
CODE = """
import hashlib, mmap, random, re
from pathlib import Path
from r1site import huge_pages

SIZE, HUGE = 64 << 20, huge_pages.HUGE_BYTES

def span():
    return mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

def mib(name):
    return int(re.search(rf"(?m)^{name}: +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1]) / 1024

full, sparse, gone = span(), span(), span()
full[:] = random.randbytes(SIZE)
for at in range(0, SIZE, HUGE):
    sparse[at] = 7
gone[:] = bytes(SIZE)
before, resident = hashlib.sha256(full).digest(), 0
huge_pages.SECONDS_MAX = 30

found = huge_pages._filled
def filled():
    global resident
    addresses = list(found())
    gone.close()
    resident = mib("Rss")
    yield from addresses
huge_pages._filled = filled

done = huge_pages.use_huge_pages()
print(done, mib("AnonHugePages"), mib("Rss") - resident)
assert done * 2 >= 32, "most of what is full"
assert mib("AnonHugePages") >= 32
assert mib("Rss") - resident < 8, "what is hardly used does not grow"
assert hashlib.sha256(full).digest() == before
assert [sparse[at] for at in range(0, SIZE, HUGE)] == [7] * (SIZE // HUGE)
"""


def _kernel_can() -> bool:
    try:
        allowed = huge_pages.ALLOWED.read_text()
    except OSError:
        return False
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    return "[never]" not in allowed and version >= (6, 1)


@pytest.mark.skipif(not _kernel_can(), reason="this kernel puts nothing into huge pages when asked to")
def test_what_is_full_goes_into_huge_pages_and_stays_as_it_was():
    subprocess.run([sys.executable, "-c", CODE], check=True)


@pytest.mark.parametrize("allowed", ["always madvise [never]\n", None], ids=["told not to", "a system without them"])
def test_where_there_are_to_be_none_nothing_is_touched(allowed, tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages, "ALLOWED", tmp_path / "enabled")
    if allowed is not None:
        huge_pages.ALLOWED.write_text(allowed)
    monkeypatch.setattr(huge_pages, "_filled", lambda: pytest.fail("looked for memory"))
    assert huge_pages.use_huge_pages() == 0


def test_a_start_does_not_wait_for_a_kernel_that_has_to_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages, "ALLOWED", tmp_path / "enabled")
    huge_pages.ALLOWED.write_text("always [madvise] never\n")
    asked = []
    monkeypatch.setattr(huge_pages, "SECONDS_MAX", -1.0)
    monkeypatch.setattr(huge_pages, "_filled", lambda: iter(asked.append(nth) or nth for nth in range(9)))
    assert huge_pages.use_huge_pages() == 0
    assert asked == [0]
