// Everything that is remembered, newest first, by source and thread.

import { busy, count, el, moment, said, show } from "./dom.js";
import { openDocument } from "./document.js";

const PAGE = 20;

export function documentsView(api) {
  const source = el("input", { type: "text", id: "source", maxLength: 64, autocomplete: "off" });
  const thread = el("input", { type: "text", id: "thread", maxLength: 128, autocomplete: "off" });
  const filter = el("button", { type: "submit" }, "Show");
  const numbers = el("p", { class: "fine" });
  const sources = el("p", {});
  const list = el("ul", { class: "plain", "aria-label": "Documents" });
  const more = el("button", { type: "button", class: "quiet", hidden: true }, "Older ones");
  const wrong = el("div", {});
  let next = null;

  const first = () => {
    const asked = new URLSearchParams({ limit: PAGE, ...(source.value && { source: source.value }), ...(thread.value && { thread_id: thread.value }) });
    return `memory/documents?${asked}`;
  };
  const load = async (path) => {
    const page = await api.call("GET", path);
    list.append(...page.results.map((document) => entry(api, document)));
    // Its query alone: the rest of the address may be that of a proxy's inside.
    next = page.next && `memory/documents${new URL(page.next).search}`;
    more.hidden = !next;
    if (!list.children.length) list.append(el("li", { class: "empty" }, "Nothing here yet. Add a text under “Add”."));
  };
  const begin = () => {
    show(list);
    show(wrong);
    return busy(filter, wrong, () => load(first()));
  };
  const form = el("form", {}, el("div", { class: "row" },
    el("label", { htmlFor: "source" }, "Source", source), el("label", { htmlFor: "thread" }, "Thread", thread), filter));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    begin();
  });
  more.addEventListener("click", () => busy(more, wrong, () => load(next)));

  busy(filter, wrong, async () => {
    const stats = await api.call("GET", "memory/stats");
    numbers.textContent = `${count(stats.documents, "document")} · ${count(stats.chunks, "chunk")} of ${stats.quota.max_chunks.toLocaleString()} · ${count(stats.threads, "thread")}`;
    show(sources, Object.entries(stats.sources).map(([name, number]) => {
      const pick = el("button", { type: "button", class: "quiet tag" }, said(name), ` ${number}`);
      pick.addEventListener("click", () => {
        source.value = name;
        begin();
      });
      return pick;
    }));
  }).then(begin);
  return el("section", {}, numbers, sources, form, wrong, list, more);
}

function entry(api, document) {
  const place = el("div", {});
  const open = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Read");
  const item = el("li", { class: "card" },
    el("div", { class: "head" }, el("h2", { class: "name" }, said(document.doc_id)), el("span", { class: "fine" }, moment(document.created_at)), open),
    el("p", { class: "fine" }, said(document.source), document.thread_id ? [" · thread ", said(document.thread_id)] : null,
      document.speaker ? [" · said by ", said(document.speaker)] : null, ` · ${count(document.chars, "character")}`,
      document.derived_from.length ? ` · made from ${count(document.derived_from.length, "document")}` : null),
    place);
  open.addEventListener("click", () => {
    if (place.children.length) {
      show(place);
      open.textContent = "Read";
      open.setAttribute("aria-expanded", "false");
      return;
    }
    busy(open, place, async () => {
      await openDocument(api, document.doc_id, place, [], () => item.classList.add("beside"));
      open.textContent = "Close";
      open.setAttribute("aria-expanded", "true");
    });
  });
  return item;
}
