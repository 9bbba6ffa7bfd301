"""A real browser at a real service: `make test-browser`. Without R1_CHROMIUM these are no part of a run.

Each page fails its test where it asks another host, or says an error on its console. Pictures of what was seen are left
under var/browser.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.bench.wire import mint_tokens
from tests.faults.service import Service, running

PICTURES = Path(__file__).resolve().parents[2] / "var/browser"
DESKTOP, PHONE = 1280, 360
# Of axe-core's findings those that keep somebody from using a page.
GRAVE = {"serious", "critical"}

if "R1_CHROMIUM" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with running(MEMORY_RATE_DEFAULT="off") as service:
        yield service


@pytest.fixture(scope="session")
def token(service: Service) -> Callable[[str], str]:
    """(user id) -> a token."""
    return lambda user: mint_tokens(service.var, [user])[0]


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The tests may run as root, as in a container, where Chromium has no sandbox of its own.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=os.environ["R1_CHROMIUM"], args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser, service: Service):
    """(width, scheme) -> a page in a profile of its own; in the end nothing may have gone wrong on any."""
    said: list[str] = []
    hosts: set[str] = set()
    contexts = []

    def new(width: int = DESKTOP, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        return page

    yield new
    for context in contexts:
        context.close()
    assert said == []
    assert hosts <= {f"127.0.0.1:{service.port}"}


@pytest.fixture
def look(request) -> Callable:
    """(page, name): its picture is kept, and axe-core finds nothing grave on it."""
    from axe_playwright_python.sync_playwright import Axe

    def look(page, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
        # It would fetch style sheets anew and put them into the page, which the content policy refuses aloud.
        found = Axe().run(page, options={"preload": False}).response["violations"]
        assert [(each["id"], each["nodes"][0]["target"]) for each in found if each["impact"] in GRAVE] == []

    return look
