// The whole memory: taken along, or erased for good.

import { announce, busy, el, said, show } from "./dom.js";
import { isGenuine } from "./receipt.js";

export function wholeView(api) {
  return el("section", {}, exportPart(api), erasePart(api));
}

const isoDay = () => new Date().toISOString().slice(0, 10);

function save(name, content, type) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function exportPart(api) {
  const outcome = el("div", {});
  const button = el("button", { type: "button" }, "Download everything");
  button.addEventListener("click", () => {
    show(outcome);
    busy(button, outcome, async () => {
      save(`memory-${isoDay()}.jsonl`, await api.blob("memory/export"));
      announce("The export is downloaded");
    });
  });
  return el("section", {}, el("h2", {}, "Export"),
    el("p", {}, "A file of JSON Lines, one document a line. Dropped under “Add” it is remembered again."), button, outcome);
}

function erasePart(api) {
  const typed = el("input", { type: "text", id: "confirm", autocomplete: "off" });
  const button = el("button", { type: "submit", class: "danger", disabled: true }, "Erase everything");
  const outcome = el("div", {});
  typed.addEventListener("input", () => (button.disabled = typed.value !== api.user));
  const form = el("form", {}, el("h2", {}, "Erase"),
    el("p", {}, "Every document goes, and the keys that could open them. Nobody can bring them back, and no export is made."),
    el("label", { htmlFor: "confirm" }, "Type ", said(api.user, { class: "tag" }), " to go on"), typed,
    el("div", { class: "row" }, button), outcome);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(outcome);
    busy(button, outcome, async () => {
      const receipt = await api.call("POST", "memory/erase", { confirm: typed.value });
      const genuine = await isGenuine(receipt).catch(() => null);
      const verdict = genuine === null ? "This browser cannot verify the receipt; `manage.py verify_receipt` can."
        : genuine ? "The receipt's signature is valid." : "The receipt's signature is not valid: keep it, and ask who runs the service.";
      const text = JSON.stringify(receipt, null, 2);
      const keep = el("button", { type: "button", class: "quiet" }, "Download the receipt");
      keep.addEventListener("click", () => save(`erasure-receipt-${isoDay()}.json`, text, "application/json"));
      show(outcome, el("div", { class: "card open" }, el("h3", {}, "Erased"), el("p", { class: genuine === false ? "wrong" : "" }, verdict), el("pre", { tabIndex: 0 }, text), keep));
      announce("The memory is erased");
    }).then(() => {
      typed.value = "";
      button.disabled = true;
    });
  });
  return form;
}
