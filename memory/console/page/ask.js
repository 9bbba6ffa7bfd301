// A question: its passages with what stands around them, or an answer as it is written.

import { announce, busy, count, el, moment, problem, said, show } from "./dom.js";
import { openDocument } from "./document.js";
import { reasons, timings, why } from "./why.js";

export function askView(api) {
  const question = el("input", { type: "search", id: "question", required: true, maxLength: 8192, autocomplete: "off", dir: "auto" });
  const source = el("input", { type: "text", id: "ask-source", maxLength: 64, autocomplete: "off" });
  const thread = el("input", { type: "text", id: "ask-thread", maxLength: 128, autocomplete: "off" });
  const beside = el("input", { type: "checkbox", id: "beside", checked: true });
  const ask = el("button", { type: "submit" }, "Find passages");
  const answer = el("button", { type: "button", class: "quiet" }, "Answer in words");
  const found = el("section", { "aria-label": "What was found" });
  const narrowed = () => ({ ...(source.value && { source: source.value }), ...(thread.value && { thread_id: thread.value }) });

  const form = el("form", {},
    el("label", { htmlFor: "question" }, "What do you want to know?"), question,
    el("details", {}, el("summary", {}, "Only in a part of the memory"),
      el("div", { class: "row" },
        el("label", { htmlFor: "ask-source" }, "Source", source),
        el("label", { htmlFor: "ask-thread" }, "Thread", thread),
        el("label", { class: "check", htmlFor: "beside" }, beside, "Show what stands around each passage"))),
    el("div", { class: "row" }, ask, answer));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(found);
    busy(ask, found, async () => {
      const body = { query: question.value, ...narrowed(), surroundings: beside.checked ? 1 : 0 };
      const answered = await api.call("POST", "memory/query", body);
      show(found, results(api, answered));
      announce(`${count(answered.results.length, "passage")} found`);
    });
  });

  let running;
  answer.addEventListener("click", () => {
    if (!form.reportValidity()) return;
    running?.abort();
    running = new AbortController();
    show(found);
    busy(answer, found, () => stream(api, { message: question.value, ...narrowed() }, found, running.signal));
  });
  return el("section", {}, form, found);
}

function results(api, answered) {
  if (!answered.results.length) {
    return el("p", { class: "empty" }, "Nothing is remembered that could be shown. Add a text under “Add”, or ask in a wider part of the memory.");
  }
  return [
    answered.relevant ? null : el("p", { class: "card" }, "Nothing that is remembered seems to answer this. These come nearest:"),
    answered.degraded.length ? el("p", { class: "wrong" }, "Some stored passages did not open and were left out.") : null,
    ...answered.results.map((result, number) => card(api, result, number + 1)),
    el("p", { class: "fine" }, `${count(answered.candidates, "candidate")} · ${answered.reranked ? "reranked" : `not reranked (${answered.rerank.skipped || "nothing to do"})`} · pipeline ${answered.variant} · ${timings(answered.took_ms)}`),
  ];
}

function card(api, result, number) {
  const place = el("div", {});
  const open = el("button", { type: "button", class: "quiet" }, "Show in its document");
  const { start, end, doc_id: id } = result.citation;
  open.addEventListener("click", () => busy(open, place, () => openDocument(api, id, place, [{ start, end, title: "This passage" }])));
  const neighbour = (each) => said(each.text, { class: "text beside" }, "p");
  return el("article", { class: "card", "aria-label": `Passage ${number}: ${reasons(result).join(", ")}` },
    el("div", { class: "head" }, el("h2", { class: "name" }, `${number}. `, said(result.doc_id)), el("span", { class: "fine" }, moment(result.created_at))),
    el("p", { class: "fine" }, said(result.source), result.thread_id ? [" · thread ", said(result.thread_id)] : null, result.speaker ? [" · said by ", said(result.speaker)] : null),
    (result.before || []).map(neighbour),
    el("p", { class: "text", dir: "auto" }, el("mark", {}, result.text)),
    (result.after || []).map(neighbour),
    why(result), open, place);
}

async function stream(api, body, found, signal) {
  const words = el("p", { class: "text answer", dir: "auto" });
  const under = el("div", {});
  show(found, el("article", { class: "card open", "aria-label": "Answer" }, words, under));
  try {
    for await (const { event, data } of api.events("stream", body, signal)) {
      if (event === "token") words.append(data.delta);
      if (event === "citations" && data.citations.length) {
        under.append(el("details", {}, el("summary", {}, `From ${count(data.citations.length, "passage")}`),
          data.citations.map((cited) => el("div", { class: "card" },
            el("p", { class: "fine" }, `[${cited.n}] `, said(cited.doc_id)), said(cited.quote, { class: "text" }, "p")))));
      }
      if (event === "done") {
        under.append(el("p", { class: "fine" }, `first word after ${(data.took_ms.ttfv ?? 0).toFixed(0)} ms · in all ${data.took_ms.total.toFixed(0)} ms`));
        announce("The answer is complete");
      }
      if (event === "error") under.append(problem({ message: data.detail, errors: [] }));
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}
