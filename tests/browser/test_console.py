"""The memory page, walked by a person: each action works, nothing leaks, hostile content stays text."""

from __future__ import annotations

import json
import re

from tests.browser.conftest import DESKTOP, PHONE

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script> ‮gnihtemos‬ heat pump'


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def entered(page, service, token: str):
    page.goto(f"http://127.0.0.1:{service.port}/console/#token={token}")
    page.wait_for_selector("#question")
    return page


def remember(service, token: str, **document) -> None:
    assert service.call("POST", "/api/v1/memory/index", token, document)[0] in (200, 201)


def view(page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()


def asked(page, question: str):
    view(page, "Ask")
    page.fill("#question", question)
    button(page, "Find passages").click()
    page.wait_for_selector("article, .empty")
    return page


def test_a_pasted_token_opens_it_until_it_is_forgotten(service, token, new_page, look):
    page = new_page()
    page.goto(f"http://127.0.0.1:{service.port}/console/")
    look(page, "console sign in")
    assert page.locator("#views").is_hidden()
    page.fill("#token", token("paster"))
    button(page, "Open the memory").click()
    page.wait_for_selector("#question")
    button(page, "Forget the token").click()
    page.wait_for_selector("#token")
    assert page.locator("#views").is_hidden()


def test_a_wrong_token_is_said_to_be_one(service, browser):
    # A profile of its own: the browser itself says on its console that it was refused.
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{service.port}/console/#token=rubbish")
    assert page.get_by_role("alert").inner_text() == "The bearer token is not valid."
    page.close()


def test_the_token_is_in_no_address_no_storage_and_no_log(service, token, new_page):
    secret = token("careful")
    page = entered(new_page(), service, secret)
    assert page.url == f"http://127.0.0.1:{service.port}/console/"
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, history.length, location.href]")
    assert kept[:3] == [0, 0, ""]
    assert secret not in json.dumps(kept)
    page.go_back()
    page.go_forward()
    assert secret not in page.url
    assert secret not in service.log.read_text()


def test_a_text_is_remembered_found_explained_answered_and_deleted(service, token, new_page, look):
    page = entered(new_page(), service, token("marie"))
    view(page, "Add")
    page.fill("#text", "🎉 The heat pump was serviced in March by Maria Lindqvist from Stockholm.")
    page.fill("#doc-id", "notes/heating")
    look(page, "console add")
    button(page, "Remember").click()
    page.wait_for_selector("text=Remembered, in 1 chunk")

    asked(page, "When was the heat pump serviced?")
    page.get_by_text(re.compile("Why it was found")).first.click()
    button(page, "Show in its document").first.click()
    # The emoji is two units of a JavaScript string: what is marked is the passage to the character all the same.
    assert page.locator(".card.open mark").inner_text().startswith("🎉 The heat pump")
    button(page, "Mark people, places and dates").click()
    page.wait_for_selector("mark.entity")
    assert {"Maria Lindqvist", "Stockholm"} <= set(page.locator("mark.entity").all_inner_texts())
    button(page, "Mark its 1 chunk").click()
    page.wait_for_selector("text=chunk 0: characters 0 to")
    look(page, "console ask")

    button(page, "Answer in words").click()
    page.wait_for_selector("text=first word after")
    assert "serviced in March" in page.locator(".answer").inner_text()

    view(page, "Documents")
    button(page, "Read").first.click()
    button(page, "Delete this document").click()
    look(page, "console document")
    button(page, "Delete it for good?").click()
    page.wait_for_selector("text=Deleted, with what was made from it.")
    assert service.call("GET", "/api/v1/memory/documents/notes/heating", token("marie"))[0] == 404


def test_files_are_taken_one_document_a_record_and_a_bad_one_is_named(service, token, new_page, look):
    page = entered(new_page(), service, token("files"))
    view(page, "Add")
    files = {
        "a.md": b"# A page\n\nThe boat lies in harbour seven.",
        "b.csv": b'doc_id,text\r\nb/1,"Book nine, lent to ""Anna"""\r\nb/2,Shelf two\r\n',
        "c.json": json.dumps([{"text": "One"}, {"text": "Two", "thread_id": "t"}]).encode(),
        "d.pdf": b"%PDF",
        "e.txt": b"\xff\xfe",
    }
    page.set_input_files("#files", [{"name": n, "mimeType": "text/plain", "buffer": raw} for n, raw in files.items()])
    page.wait_for_selector("text=5 documents remembered")
    wrong = page.get_by_role("alert").all_inner_texts()
    assert wrong == ["Only txt, md, json and csv are taken.", "The file is not UTF-8 text."]
    look(page, "console files")
    stored = service.call("GET", "/api/v1/memory/documents/b/1", token("files"))[1]
    assert stored["text"] == 'Book nine, lent to "Anna"'


def test_everything_is_downloaded_then_erased_with_a_receipt_that_verifies(service, token, new_page, look):
    remember(service, token("leaver"), doc_id="one", text="The key lies under the mat.")
    page = entered(new_page(), service, token("leaver"))
    view(page, "Export and erase")
    with page.expect_download() as download:
        button(page, "Download everything").click()
    [line] = download.value.path().read_text().splitlines()
    assert json.loads(line)["text"] == "The key lies under the mat."
    assert button(page, "Erase everything").is_disabled()
    page.fill("#confirm", "leaver")
    button(page, "Erase everything").click()
    page.wait_for_selector("text=The receipt's signature is valid.")
    look(page, "console erased")
    assert "Nothing here yet" in (view(page, "Documents"), page.wait_for_selector("li.empty").inner_text())[1]


def test_hostile_content_stays_text(service, token, new_page, look):
    remember(service, token("victim"), doc_id=HOSTILE, text=HOSTILE, source="<b>", thread_id="🎉<i>", speaker='"><svg>')
    remember(service, token("victim"), doc_id="large", text="heat pump " * 9_000)
    for width, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
        page = asked(entered(new_page(width, scheme), service, token("victim")), "Where is the heat pump?")
        assert page.title() == "Memory"
        assert page.locator("main img, main script, main svg, main b, main i").count() == 0
        assert HOSTILE in page.locator("main").inner_text()
        look(page, f"console hostile {width}")
        view(page, "Documents")
        page.wait_for_selector("li.card")
        assert page.title() == "Memory"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        look(page, f"console documents {width}")


def test_two_users_in_two_windows_see_nothing_of_each_other(service, token, new_page):
    pages = {}
    for user, secret in (("left", "ochre"), ("right", "violet")):
        remember(service, token(user), doc_id="note", text=f"The colour of the door is {secret}.")
        pages[user] = entered(new_page(), service, token(user))
    for user, secret, other in (("left", "ochre", "violet"), ("right", "violet", "ochre")):
        text = asked(pages[user], "What colour is the door?").locator("main").inner_text()
        assert secret in text and other not in text


def test_it_is_walked_by_keyboard_alone(service, token, new_page):
    remember(service, token("keys"), doc_id="note", text="The pear tree was pruned in May.")
    page = entered(new_page(), service, token("keys"))
    page.keyboard.press("Tab")
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "question":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("When was the pear tree pruned?")
    page.keyboard.press("Enter")
    page.wait_for_selector("article")
    assert "pruned in May" in page.locator("article").first.inner_text()
