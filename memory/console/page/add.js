// A text typed in, or files dropped: .txt and .md as they are, .json and .csv a document a record.

import { announce, busy, count, el, problem, said, show } from "./dom.js";
import { documentsOf } from "./files.js";

export function addView(api) {
  return el("section", {}, textForm(api), filesForm(api));
}

function textForm(api) {
  const id = el("input", { type: "text", id: "doc-id", maxLength: 256, required: true, autocomplete: "off" });
  const source = el("input", { type: "text", id: "add-source", maxLength: 64, value: "console", autocomplete: "off" });
  const thread = el("input", { type: "text", id: "add-thread", maxLength: 128, autocomplete: "off" });
  const text = el("textarea", { id: "text", required: true, dir: "auto" });
  const save = el("button", { type: "submit" }, "Remember");
  const outcome = el("div", {});
  const form = el("form", {}, el("h2", {}, "A text"),
    el("label", { htmlFor: "text" }, "What is to be remembered"), text,
    el("div", { class: "row" },
      el("label", { htmlFor: "doc-id" }, "Name of the document", id),
      el("label", { htmlFor: "add-source" }, "Source", source),
      el("label", { htmlFor: "add-thread" }, "Thread, if it is part of a conversation", thread)),
    el("div", { class: "row" }, save), outcome);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(outcome);
    busy(save, outcome, async () => {
      const body = { doc_id: id.value, text: text.value, source: source.value || "console", ...(thread.value && { thread_id: thread.value }) };
      const stored = await api.call("POST", "memory/index", body);
      show(outcome, el("p", { class: "fine" }, `${stored.replaced ? "Replaced" : "Remembered"}, in ${count(stored.chunks, "chunk")}.`));
      announce("The text is remembered");
      text.value = "";
    });
  });
  return form;
}

function filesForm(api) {
  const input = el("input", { type: "file", id: "files", multiple: true, accept: ".txt,.md,.json,.csv" });
  const bar = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "Files stored" });
  const said_ = el("p", { class: "fine" });
  const wrong = el("div", {});
  const drop = el("div", { class: "drop" }, el("label", { htmlFor: "files" }, "Drop files here, or choose them: txt, md, json, csv"), input);
  const store = async (files) => {
    show(wrong);
    input.disabled = true;
    const drafts = [];
    for (const file of files) {
      try {
        drafts.push(...(await documentsOf(file)));
      } catch (error) {
        wrong.append(named(file.name, error));
      }
    }
    Object.assign(bar, { max: Math.max(1, drafts.length), value: 0, hidden: !drafts.length });
    let stored = 0;
    for (const draft of drafts) {
      try {
        await api.patient("POST", "memory/index", draft, (seconds) => (said_.textContent = `The service is busy; going on in ${seconds} s.`));
        stored += 1;
      } catch (error) {
        wrong.append(named(draft.doc_id, error));
        if (error.code === "quota_exceeded" || error.status === 401) break;
      }
      bar.value += 1;
      said_.textContent = `${bar.value} of ${drafts.length}`;
    }
    said_.textContent = `${count(stored, "document")} remembered`;
    announce(said_.textContent);
    input.disabled = false;
    input.value = "";
  };
  input.addEventListener("change", () => store([...input.files]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && !input.disabled) store([...event.dataTransfer.files]);
    });
  }
  return el("section", {}, el("h2", {}, "Files"), drop, bar, said_, wrong);
}

const named = (name, error) => el("div", {}, said(name), problem(error));
