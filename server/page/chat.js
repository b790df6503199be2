// The conversation: questions, and their answers under one or more policies.
//
// A turn is a question with one run per policy. The run of the chosen policy becomes part of the history.

import { ServerError, call, stream } from "./api.js";
import { $, bytes, count, el, perSecond, seconds, share } from "./dom.js";
import * as picture from "./picture.js";
import * as policy from "./policy.js";
import { readPieces, readTrace } from "./tokens.js";

const LOOK_MS = 600; // between requests for a running answer's heads
const MOST_TRIES = 20;

let turns = [];
let running = null; // AbortController of the turn that is being answered
let shownRun = null; // the run whose cache is shown
let facts = null; // the server's { layers, heads, pageBytes, pageSlots }
let settings = () => ({});
let hooks = {};

export const isRunning = () => running !== null;
export const setFacts = (value) => (facts = value);
const answered = () => turns.filter((turn) => turn.chosen?.text);
export const hasBegun = () => answered().length > 0;

/* What is asked. */

function messagesFor(turn) {
  const messages = [];
  const { system } = settings();
  if (system) messages.push({ role: "system", content: system });
  const before = turns.slice(0, turns.indexOf(turn)).filter((other) => other.chosen?.text);
  for (const t of [...before, turn]) {
    messages.push({ role: "user", content: t.document ? `${t.document}\n\n${t.question}` : t.question });
    if (t !== turn) messages.push({ role: "assistant", content: t.chosen.text });
  }
  return messages;
}

// The token ids that the chat endpoint makes of these messages, and their texts.
async function tokenize(messages, signal) {
  const answer = await call("tokenize", { messages, with_pieces: true }, signal);
  return { ...readPieces(answer.pieces), ids: answer.tokens };
}

function newRun(name, nPrompt) {
  const plan = policy.planFor(name, nPrompt);
  return { label: plan ? plan.label : name, policyName: name, note: plan?.note || "", policy: plan?.policy, locked: !plan,
    alone: true, state: "waiting", text: "", n: 0, progress: 0, promptTokens: nPrompt, layers: facts.layers, heads: facts.heads };
}

/* One run. */

function takeEvent(run, event, began) {
  run.id = event.id || run.id;
  if (event.prompt_progress) {
    run.progress = event.prompt_progress.processed;
    run.promptTokens = event.prompt_progress.total;
  }
  const choice = event.choices?.[0];
  const ids = choice?.token_ids?.length || 0;
  if (ids || choice?.delta?.content) {
    const now = performance.now();
    if (!run.firstAt) {
      run.firstAt = now;
      run.ttftMs = now - began;
      run.state = "answering";
    }
    run.n += ids;
    run.text += choice.delta.content || "";
    if (run.n > 1) run.rate = (1000 * (run.n - 1)) / (now - run.firstAt);
  }
  if (choice?.finish_reason) run.finish = choice.finish_reason;
  if (event.usage) takeUsage(run, event.usage);
  if (event.timings) {
    run.ttftMs = event.timings.ttft_ms;
    if (event.timings.predicted_per_second) run.rate = event.timings.predicted_per_second;
  }
  if (event.kv_trace?.kept) run.rawTrace = event.kv_trace;
}

function takeUsage(run, usage) {
  run.promptTokens = usage.prompt_tokens;
  run.cachedTokens = usage.prompt_tokens_details?.cached_tokens || 0;
  run.n = usage.completion_tokens;
  const kv = usage.kv_cache;
  if (!kv) return;
  run.final = true;
  Object.assign(run, { policyName: kv.policy, budget: kv.budget, bytes: kv.bytes, bytesFull: kv.bytes_full, bytesPeak: kv.bytes_peak });
}

function takeDetail(run, detail) {
  run.detail = detail.layers.flat();
  if (run.final) return;
  run.budget = detail.budget;
  run.bytes = detail.pages * facts.pageBytes;
  run.bytesPeak = Math.max(run.bytesPeak || 0, run.bytes);
  run.bytesFull = Math.ceil(detail.tokens_seen / facts.pageSlots) * facts.layers * facts.heads * facts.pageBytes;
}

const look = (run, signal) => call(`v1/kv/requests/${encodeURIComponent(run.id)}`, undefined, signal).then((d) => takeDetail(run, d));

// Reads the heads' counts until the signal ends it. If the server has none, the answer is still good.
async function watch(run, signal) {
  while (!signal.aborted) {
    await wait(LOOK_MS, signal).catch(() => {});
    if (signal.aborted) return;
    if (run.id) await look(run, signal).catch(() => {});
    touch(run);
  }
}

function wait(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    }, { once: true });
  });
}

// The same for all runs, so that those of a comparison differ by their policies and not by chance.
const SEED = Math.floor(Math.random() * 2 ** 31);

async function attempt(run, messages, signal) {
  const { temperature, maxTokens } = settings();
  const body = { messages, temperature, seed: SEED, max_tokens: maxTokens, return_token_ids: true, return_progress: true,
    stream_options: { include_usage: true } };
  if (run.policy) body.kv_policy = run.policy;
  const watching = new AbortController();
  const began = performance.now();
  run.state = "reading";
  touch(run);
  watch(run, watching.signal);
  try {
    for await (const event of stream("v1/chat/completions", body, signal)) {
      takeEvent(run, event, began);
      touch(run);
    }
  } finally {
    watching.abort();
  }
  if (!run.rawTrace) return;
  if (run.rawTrace.trace_truncated) await look(run, signal).catch(() => {});
  const slots = run.rawTrace.trace_truncated ? (run.detail || []).map((h) => h.slots) : null;
  run.trace = readTrace(run.rawTrace.kept, run.promptTokens, slots);
  delete run.rawTrace;
}

// A busy or loading server says after how many seconds to ask again.
async function patiently(run, signal, work) {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (e) {
      const again = e instanceof ServerError && (e.status === 429 || e.code === "model_loading") && !run.text;
      if (!again || tries >= MOST_TRIES) throw e;
      for (let left = Math.max(1, Math.round(e.retryAfter)); left > 0; left--) {
        run.state = "waiting";
        run.waiting = `${e.status === 429 ? "The server is busy" : "The model is loading"}; asking again in ${left} s`;
        touch(run);
        await wait(1000, signal);
      }
      run.waiting = "";
    }
  }
}

/* A turn. */

function namesFor(compare) {
  const chosen = policy.chosenName();
  if (!compare || policy.isLocked()) return [chosen];
  const names = new Set(["full", chosen]);
  if ($("with-sink").checked || chosen === "full") names.add("sink");
  return [...names].filter((name) => name === chosen || policy.isAvailable(name));
}

// If the server refuses one policy, the others still run. Any other error ends all runs.
async function answer(run, messages, signal) {
  select(run);
  try {
    await patiently(run, signal, () => attempt(run, messages, signal));
    if (run.promptTokens !== run.read.ids.length) Object.assign(run, { read: null, trace: null });
    run.state = "done";
  } catch (e) {
    if (e.kind !== "http" || ![400, 403, 504].includes(e.status)) throw e;
    Object.assign(run, { state: "failed", error: e });
    if (run.text) await look(run).catch(() => {});
  }
  touch(run);
}

async function execute(turn) {
  running = new AbortController();
  const { signal } = running;
  hooks.onRunning(true);
  turn.chosen = null;
  turn.runs = turn.names.map((name) => newRun(name, 0));
  drawTurn(turn);
  select(turn.runs[0]);
  try {
    const messages = messagesFor(turn);
    const read = await patiently(turn.runs[0], signal, () => tokenize(messages, signal));
    policy.setPromptTokens(read.ids.length);
    turn.runs.forEach((run, i) => Object.assign(run, newRun(turn.names[i], read.ids.length), { read, alone: turn.runs.length === 1 }));
    for (const run of turn.runs) await answer(run, messages, signal);
  } catch (e) {
    await fail(turn, e);
  }
  turn.chosen = turn.runs.find((run) => run.policyName === turn.names[turn.names.length > 1 ? 1 : 0] && run.text) ||
    turn.runs.find((run) => run.text) || null;
  running = null;
  for (const run of turn.runs) draw(run);
  if (shownRun) picture.show(shownRun);
  hooks.onRunning(false);
  $("spoken").textContent = turn.runs.filter((run) => run.text).map((run) =>
    (turn.runs.length > 1 ? `Under ${run.label}: ` : "") + run.text).join("\n");
}

async function fail(turn, e) {
  const stopped = e.name === "AbortError";
  const unknown = !stopped && !(e instanceof ServerError);
  for (const run of turn.runs) {
    if (run.state === "done" || run.error) continue;
    const begun = run.state !== "waiting" || run === turn.runs[0];
    run.state = stopped ? "stopped" : begun || run.waiting ? "failed" : "stopped";
    if (!stopped && begun) run.error = e;
    run.waiting = "";
    if (stopped && run.id) { // the server has its counts for a minute after the end
      await wait(150, new AbortController().signal);
      await look(run).catch(() => {});
    }
  }
  if (unknown) console.error(e);
  if (!stopped) hooks.onError(e);
}

export async function ask(question, document, compare) {
  if (running || !question.trim() || !facts) return;
  const turn = { question, document: hasBegun() ? "" : document, names: namesFor(compare) };
  turns.push(turn);
  await execute(turn);
}

export const stop = () => running?.abort();

export function clear() {
  stop();
  for (const turn of turns) turn.element?.remove();
  turns = [];
  shownRun = null;
  picture.clear();
  $("runs").replaceChildren();
  $("spoken").textContent = "";
}

/* On the page. */

const dirty = new Set();
let due = false;
function touch(run) {
  dirty.add(run);
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const one of dirty) draw(one);
    if (dirty.has(shownRun)) picture.show(shownRun);
    dirty.clear();
  });
}

function select(run) {
  shownRun = run;
  const turn = turns.find((t) => t.runs?.includes(run));
  $("runs").replaceChildren(...turn.runs.map((one) =>
    el("button", { type: "button", className: "tab", "aria-pressed": String(one === run), onclick: () => select(one) }, one.label)));
  for (const t of turns) for (const one of t.runs || []) one.element?.classList.toggle("shown", one === run);
  picture.show(run);
}

function drawTurn(turn) {
  const old = turn.element;
  for (const run of turn.runs) run.element = el("section", { className: "run", "aria-label": `Answer under ${run.label}` });
  const about = turn.document ? [el("span", { className: "tag" }, `Document, ${count(turn.document.length)} characters`)] : [];
  turn.element = el("article", { className: "turn" }, el("div", { className: "question" }, ...about, turn.question),
    el("div", { className: "runs" }, ...turn.runs.map((run) => run.element)));
  if (old) old.replaceWith(turn.element);
  else $("log").append(turn.element);
  for (const run of turn.runs) draw(run);
  $("welcome").hidden = true;
  $("log").scrollTop = $("log").scrollHeight;
}

function stateText(run) {
  if (run.waiting) return run.waiting;
  if (run.state === "waiting") return "waiting";
  if (run.state === "reading") return run.progress ? `reading the prompt, ${share(run.progress, run.promptTokens)}` : "reading the prompt";
  if (run.state === "answering") return "answering";
  if (run.state === "stopped") return run.text ? "stopped" : "not asked";
  if (run.state === "failed") return run.text ? "incomplete" : "failed";
  return run.finish === "length" ? `cut off at ${count(run.n)} tokens` : "";
}

function numbersOf(run) {
  const parts = [];
  if (run.ttftMs) parts.push(`first token ${seconds(run.ttftMs)}`);
  if (run.rate) parts.push(perSecond(run.rate));
  if (run.bytesFull) parts.push(`cache ${bytes(run.bytes)} of ${bytes(run.bytesFull)}`);
  return parts.join(" · ");
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // the clipboard exists only under https and on localhost
    const area = el("textarea", { value: text, className: "hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

// The buttons below an error.
function remedies(run, turn) {
  const again = (name) => {
    if (running) return;
    if (name) turn.names = [name];
    execute(turn);
  };
  const buttons = [];
  if (run.error.status === 401) buttons.push(el("button", { type: "button", onclick: () => hooks.onKey(run.error.message) }, "Enter the key"));
  if (run.error.code === "context_length_exceeded" && policy.isAvailable("sink") && run.policyName !== "sink")
    buttons.push(el("button", { type: "button", onclick: () => again("sink") }, "Ask under sink"));
  buttons.push(el("button", { type: "button", onclick: () => again("") }, "Try again"));
  return el("div", { className: "row" }, ...buttons);
}

// The parts of a run's element, created once. Drawing changes their texts.
function partsOf(run) {
  if (run.element.firstChild) return run.parts;
  const parts = { label: el("b"), state: el("span", { className: "hint" }), text: el("div", { className: "text" }),
    note: el("p", { className: "hint" }), error: el("div", { className: "error", hidden: true }),
    bar: el("div", { className: "bar", hidden: true, "aria-hidden": "true" }, el("span")), numbers: el("span", { className: "hint" }) };
  const copyButton = el("button", { type: "button", className: "small", disabled: true }, "Copy");
  copyButton.addEventListener("click", () => copy(run.text, copyButton));
  parts.copy = copyButton;
  run.element.append(el("div", { className: "head" }, parts.label, parts.state), parts.text, parts.note, parts.error, parts.bar,
    el("div", { className: "foot" }, parts.numbers, copyButton,
      el("button", { type: "button", className: "small", onclick: () => select(run) }, "Cache")));
  return (run.parts = parts);
}

function draw(run) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const parts = partsOf(run);
  run.element.dataset.state = run.state;
  run.element.setAttribute("aria-busy", String(["reading", "answering"].includes(run.state)));
  parts.label.textContent = run.label;
  parts.state.textContent = stateText(run);
  if (parts.text.textContent !== run.text) parts.text.textContent = run.text;
  parts.note.textContent = run.note;
  parts.numbers.textContent = numbersOf(run);
  parts.copy.disabled = !run.text;
  parts.bar.hidden = !run.bytesFull;
  if (run.bytesFull) parts.bar.firstChild.style.width = `${Math.min(100, (100 * run.bytes) / run.bytesFull)}%`;
  parts.error.hidden = !run.error;
  if (run.error && !parts.error.firstChild) {
    parts.error.append(el("p", { role: "alert" }, run.error.message), remedies(run, turns.find((t) => t.runs.includes(run))));
  }
  if (atEnd && run.alone) log.scrollTop = log.scrollHeight;
}

export function start(getSettings, callbacks) {
  settings = getSettings;
  hooks = callbacks;
}
