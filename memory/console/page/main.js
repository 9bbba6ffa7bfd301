// The page: a token, then one view at a time. The token is pasted, or handed over in the address's fragment, which is
// taken out of the address at once; it is kept in memory alone, and gone with the page.

import { addView } from "./add.js";
import { Api } from "./api.js";
import { askView } from "./ask.js";
import { documentsView } from "./documents.js";
import { busy, el, said, show } from "./dom.js";
import { wholeView } from "./whole.js";

const VIEWS = { ask: askView, documents: documentsView, add: addView, whole: wholeView };
const content = document.getElementById("content");
const nav = document.getElementById("views");
const leave = document.getElementById("leave");
let api = null;

function handedOver() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token;
}

async function enter(token, place) {
  const candidate = new Api(token.trim());
  await candidate.call("GET", "auth/check");
  api = candidate;
  show(document.getElementById("whose"), "of ", said(api.user));
  nav.hidden = leave.hidden = false;
  open();
}

function signIn(wrong) {
  const token = el("input", { type: "password", id: "token", required: true, autocomplete: "off", spellcheck: false });
  const enterButton = el("button", { type: "submit" }, "Open the memory");
  const outcome = el("div", {}, wrong);
  const form = el("form", {}, el("label", { htmlFor: "token" }, "A token of the user whose memory it is"), token,
    el("p", { class: "fine" }, "It is kept in this page alone and forgotten with it. In development, ", el("code", {}, "make token"), " prints one."),
    el("div", { class: "row" }, enterButton), outcome);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(outcome);
    busy(enterButton, outcome, () => enter(token.value));
  });
  show(content, form);
  token.focus();
}

function open() {
  if (!api) return;
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "ask";
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  show(content, VIEWS[name](api));
  content.focus({ preventScroll: true });
}

function begin() {
  const token = handedOver();
  if (!token) {
    if (api) open();
    else signIn();
    return;
  }
  const wrong = el("div", {});
  enter(token).catch((error) => signIn(el("p", { class: "wrong", role: "alert" }, error.message), wrong));
}

leave.addEventListener("click", () => {
  api.forget();
  api = null;
  nav.hidden = leave.hidden = true;
  show(document.getElementById("whose"));
  signIn();
});
addEventListener("hashchange", begin);
// A page taken from the browser's memory of pages has its token still; it asks anew.
addEventListener("pageshow", (event) => event.persisted && location.reload());
begin();
