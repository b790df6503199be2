// Starts the page and connects its parts: the server's state, settings, the document, the examples.

import { call, key } from "./api.js";
import * as chat from "./chat.js";
import { $, count, el } from "./dom.js";
import { examples } from "./examples.js";
import * as picture from "./picture.js";
import * as policy from "./policy.js";

const AGAIN_MS = 2000;

/* The server: its state, and what it serves. */

let limits = { context: 8192, body: 16 << 20 };
let polling = 0;

function tellState(state, text, notice = "") {
  $("state").dataset.state = state;
  if ($("state").textContent !== text) $("state").textContent = text;
  if ($("notice").textContent !== notice) $("notice").textContent = notice;
  $("notice").hidden = !notice;
}

function askAgain() {
  clearTimeout(polling);
  polling = setTimeout(refresh, AGAIN_MS);
}

// The body of a 503 has the reason: loading, draining or failed.
function tellUnready(e) {
  if (e.kind === "gone") tellState("gone", "no answer", "The server does not answer. This page asks again every two seconds.");
  else if (e.code === "model_loading") {
    const share = e.body?.error?.progress;
    tellState("loading", share >= 0 ? `loading, ${Math.round(100 * share)} %` : "loading", "The model is still loading.");
  } else if (e.code === "draining") tellState("gone", "shutting down", "The server is shutting down and takes no new questions.");
  else tellState("gone", "not ready", e.message);
}

async function loadFacts() {
  const models = await call("v1/models");
  const [props, stats] = await Promise.all([call("v1/props"), call("v1/kv/stats")]);
  const model = models.data[0];
  const { layers, kv_heads: heads } = model.meta;
  limits = { context: model.max_model_len, body: props.limits.max_body };
  chat.setFacts({ layers, heads, pageBytes: stats.pool.page_bytes, pageSlots: stats.pool.page_slots });
  $("model").textContent = `${model.id}: ${layers} layers of ${heads} KV heads, ${count(limits.context)} tokens of context`;
  await policy.load(limits.context, () => {});
  tellState("ready", "ready");
  countDocument();
}

async function refresh() {
  clearTimeout(polling);
  try {
    await call("health");
  } catch (e) {
    tellUnready(e);
    askAgain();
    return;
  }
  try {
    await loadFacts();
  } catch (e) {
    if (e.status === 401) {
      tellState("key", "needs a key", "");
      openSettings(key.get() ? "The server does not know this API key." : "This server asks for an API key.");
    } else {
      tellUnready(e);
      askAgain();
    }
  }
}

/* Settings, which are kept for the tab, as is the key. */

const KEPT = ["system", "temperature", "max-tokens"];

function openSettings(why = "") {
  $("settings-why").textContent = why;
  $("settings-why").hidden = !why;
  if (!$("settings").open) $("settings").showModal();
  if (why) $("key").focus();
}

function startSettings() {
  for (const id of KEPT) $(id).value = sessionStorage.getItem(id) ?? $(id).value;
  $("key").value = key.get();
  $("open-settings").addEventListener("click", () => openSettings());
  $("close-settings").addEventListener("click", () => $("settings").close());
  $("settings").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.tagName === "INPUT") $("settings").close();
  });
  $("settings").addEventListener("close", () => {
    const changed = $("key").value.trim() !== key.get();
    for (const id of KEPT) sessionStorage.setItem(id, $(id).value);
    key.set($("key").value.trim());
    if (changed) refresh();
  });
}

function settings() {
  // Left empty, the request has none, and the server samples as it does for every client.
  const temperature = $("temperature").value === "" ? undefined : Number($("temperature").value);
  return { system: $("system").value.trim(), temperature, maxTokens: Math.max(1, Math.round(Number($("max-tokens").value)) || 256) };
}

/* The document in front of the first question. */

let documentName = "";
let counting = null;

function documentFacts(text) {
  $("document-facts").textContent = text;
}

async function countDocument() {
  counting?.abort();
  const mine = (counting = new AbortController());
  const text = $("document-text").value;
  const name = documentName ? `${documentName}, ` : "";
  if (!text) {
    documentFacts("none");
    policy.setPromptTokens(1024);
    return;
  }
  documentFacts(`${name}${count(text.length)} characters`);
  await new Promise((resolve) => setTimeout(resolve, 300));
  if (mine.signal.aborted) return;
  try {
    const { tokens } = await call("tokenize", { content: text, parse_special: false }, mine.signal);
    const over = tokens.length > limits.context ? `, more than the ${count(limits.context)} that fit` : "";
    documentFacts(`${name}${count(tokens.length)} tokens${over}`);
    policy.setPromptTokens(tokens.length);
  } catch { /* the count is not needed; asking shows the error */ }
}

function setDocument(text, name = "") {
  $("document-text").value = text;
  documentName = name;
  countDocument();
}

async function openFile(file) {
  if (!file) return;
  if (file.size > limits.body * 0.9) return documentFacts(`${file.name} is larger than the server reads`);
  const text = await file.text();
  if (text.includes("\0")) return documentFacts(`${file.name} is not a text`);
  setDocument(text, file.name);
}

// A document belongs to the chat that it starts.
function holdDocument() {
  const held = chat.hasBegun() || chat.isRunning();
  $("document-text").readOnly = held;
  $("document-open").disabled = $("document-clear").disabled = held;
  $("document-hint").textContent = held ? "Belongs to this chat. A new chat can take another one."
    : "Put in front of the first question. It stays in this browser until then.";
}

function startDocument() {
  $("document-text").addEventListener("input", () => {
    documentName = "";
    countDocument();
  });
  $("document-open").addEventListener("click", () => $("document-file").click());
  $("document-file").addEventListener("change", async () => {
    await openFile($("document-file").files[0]);
    $("document-file").value = "";
  });
  $("document-clear").addEventListener("click", () => setDocument(""));
  $("document").addEventListener("dragover", (event) => event.preventDefault());
  $("document").addEventListener("drop", (event) => {
    event.preventDefault();
    if (!$("document-text").readOnly) openFile(event.dataTransfer.files[0]);
  });
}

/* Asking. */

function onRunning(now) {
  $("ask").setAttribute("aria-disabled", String(now));
  $("compare").setAttribute("aria-disabled", String(now));
  if (!now && document.activeElement === $("stop")) $("question").focus();
  $("stop").disabled = !now;
  holdDocument();
}

function ask(compare) {
  if (chat.isRunning() || !$("question").value.trim()) return;
  if ($("state").dataset.state !== "ready") {
    if ($("state").dataset.state === "key") openSettings("This server asks for an API key.");
    return;
  }
  const question = $("question").value;
  $("question").value = "";
  $("document").open = false;
  chat.ask(question, $("document-text").value.trim(), compare);
}

function startAsking() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(false);
  });
  $("compare").addEventListener("click", () => ask(true));
  $("stop").addEventListener("click", chat.stop);
  $("question").addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") chat.stop();
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    ask(false);
  });
  $("new-chat").addEventListener("click", () => {
    chat.clear();
    picture.find("");
    $("welcome").hidden = false;
    holdDocument();
    $("question").focus();
  });
}

function startExamples() {
  $("examples").append(...examples.map((example) => el("button", {
    type: "button",
    onclick: () => {
      setDocument(example.document, "Example");
      $("question").value = example.question;
      if (policy.chosenName() === "full") policy.choose("snapkv", 20);
      picture.find(example.value);
      $("ask").focus();
    },
  }, example.title)));
}

chat.start(settings, {
  onRunning,
  onKey: openSettings,
  onError: (e) => (e.kind === "gone" || e.kind === "broken" || e.status === 503) && refresh(),
});
picture.start();
startSettings();
startDocument();
startAsking();
startExamples();
$("policy").open = matchMedia("(min-width: 60rem)").matches;
refresh();
