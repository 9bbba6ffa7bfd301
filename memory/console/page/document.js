// One document read back: its text with passages, chunks and entities marked.

import { announce, busy, count, el, moment, said, show } from "./dom.js";
import { marked } from "./text.js";

const address = (id) => `memory/documents/${id.split("/").map(encodeURIComponent).join("/")}`;
// As many chunks of one document as one query can bring.
const CHUNKS_SHOWN = 50;

export async function openDocument(api, id, place, marks = [], onDeleted = () => {}) {
  const stored = await api.call("GET", address(id));
  const text = el("div", { class: "text long", dir: "auto", tabIndex: 0, role: "group", "aria-label": "Text of the document" });
  const notes = el("div", {});
  const draw = (more = [], edges = []) => show(text, marked(stored.text, [...marks, ...more], edges));

  const chunks = el("button", { type: "button", class: "quiet" }, `Mark its ${count(stored.chunks, "chunk")}`);
  chunks.addEventListener("click", () => busy(chunks, notes, async () => {
    const body = { query: stored.text.slice(0, 200), doc_id: id, top_k: CHUNKS_SHOWN, candidates: CHUNKS_SHOWN, rerank: false, context: false };
    const { results } = await api.call("POST", "memory/query", body);
    draw([], results.map(({ citation }) => ({ at: citation.start, label: `chunk ${citation.chunk_index}: characters ${citation.start} to ${citation.end}` })));
  }));
  const entities = el("button", { type: "button", class: "quiet" }, "Mark people, places and dates");
  entities.addEventListener("click", () => busy(entities, notes, async () => {
    const answered = await api.call("POST", "memory/entities", { doc_id: id });
    draw(answered.entities.flatMap(({ label, mentions }) => mentions.map(({ start, end }) => ({ start, end, title: label, className: "entity" }))));
    show(notes, el("p", { class: "fine" }, answered.entities.length
      ? answered.entities.map((each) => el("span", { class: "tag" }, said(each.text), ` ${each.label} ×${each.count}`))
      : "None were recognised."));
  }));
  const remove = el("button", { type: "button", class: "danger" }, "Delete this document");
  let isSure = false;
  remove.addEventListener("click", () => {
    if (!isSure) {
      isSure = true;
      remove.textContent = "Delete it for good?";
      return;
    }
    busy(remove, notes, async () => {
      await api.call("DELETE", address(id));
      show(place, el("p", { class: "fine" }, "Deleted, with what was made from it."));
      announce("The document is deleted");
      onDeleted();
    });
  });

  draw();
  const metadata = Object.keys(stored.metadata).length
    ? el("details", {}, el("summary", {}, "Metadata"), el("pre", { dir: "auto", tabIndex: 0 }, JSON.stringify(stored.metadata, null, 2))) : null;
  show(place, el("div", { class: "card open" },
    el("p", { class: "fine" }, said(stored.doc_id), " · ", moment(stored.created_at), stored.expires_at ? [" · expires ", moment(stored.expires_at)] : null),
    text, metadata, notes, el("div", { class: "row" }, chunks, entities, remove)));
  text.querySelector("mark")?.scrollIntoView({ block: "nearest" });
}
