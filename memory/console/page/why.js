// Why a passage was found: in words for everybody, in numbers for who wants them.

import { el } from "./dom.js";

const STAGES = [
  ["vector", "Meaning", "How near its meaning is to the question's"],
  ["lexical", "Words", "How well its words fit those of the question"],
  ["fused", "Both together", "Meaning and words, and what the conversation around it added"],
  ["context", "Conversation", "What its thread, a date or a speaker added or took"],
  ["decay", "After age", "The same once older passages have faded a little"],
  ["rerank", "Read again", "What a second model said that read question and passage together"],
];

export function reasons(result) {
  const { vector, lexical, context, rerank } = result.scores;
  const found = [];
  if (lexical !== null && lexical >= 0.5) found.push("matched by words");
  if (vector >= 0.35) found.push("matched by meaning");
  if (context !== null && context > 0.02) found.push("its conversation speaks for it");
  if (context !== null && context < -0.02) found.push("less, for what stands around it");
  if (rerank !== null) found.push("read again by the reranker");
  return found.length ? found : ["the nearest there is"];
}

export function why(result) {
  const rows = STAGES.filter(([name]) => result.scores[name] !== null && result.scores[name] !== undefined).map(([name, title, says]) => {
    const value = result.scores[name];
    return el("tr", {},
      el("th", { scope: "row", title: says }, title),
      el("td", {}, el("meter", { min: 0, max: 1, value: Math.max(0, value), "aria-label": `${title}: ${value.toFixed(2)}` })),
      el("td", {}, value.toFixed(2)));
  });
  return el("div", { class: "why" },
    el("p", { class: "fine" }, reasons(result).map((reason) => el("span", { class: "tag" }, reason))),
    el("details", {}, el("summary", {}, `Why it was found: ${result.score.toFixed(2)}`), el("table", { class: "scores" }, el("tbody", {}, rows))));
}

const TIMED = { embed: "question read", ann: "searched", open: "opened", rerank: "read again", total: "in all" };

export function timings(tookMs) {
  return Object.entries(tookMs).map(([stage, ms]) => `${TIMED[stage] || stage} ${ms.toFixed(0)} ms`).join(" · ");
}
