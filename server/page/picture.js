// The picture of one answer's cache: numbers and memory, a grid of layers by heads, and the tokens of the
// prompt, shaded by how many heads still hold each.
//
// Each token has one element, created once per prompt. Showing another head or answer only changes classes
// that differ, so that prompts of many thousand tokens stay fast.

import { $, bytes, count, el, perSecond, seconds, share } from "./dom.js";
import { levelOf, tokensWith } from "./tokens.js";

let run = null; // the answer that is shown
let shape = ""; // of the grid in the document
let cells = []; // [layer * heads + head]
let focusCell = 0; // the cell in the tab order
let head = -1; // the head whose tokens are shown; -1: all
let read = null; // the prompt in the document
let spans = []; // [token]
let classes = []; // [token], as in the document
let found = new Set();
let pointed = -1; // the token that the inspector describes
let current = 0; // the token that the arrow keys have reached

let drawn = {}; // the parts of the answer that the grid and the shades show

const nHeads = () => (run ? run.layers * run.heads : 0);
const headName = (index) => `layer ${Math.floor(index / run.heads)}, head ${index % run.heads}`;

/* Numbers and memory. */

function fact(name, value, more = "") {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, more ? el("small", {}, more) : ""));
}

function showFacts() {
  const known = (value, text) => (value || value === 0 ? text(value) : "–");
  $("facts").replaceChildren(
    fact("Policy", run.policyName, run.budget ? `${count(run.budget)} tokens a head` : "no budget"),
    fact("Prompt", known(run.promptTokens || null, count), run.cachedTokens ? `${count(run.cachedTokens)} were cached`
      : run.state === "reading" && run.progress ? `${share(run.progress, run.promptTokens)} read` : "tokens"),
    fact("First token", known(run.ttftMs, seconds), "after asking"),
    fact("Speed", known(run.rate, perSecond), `${count(run.n)} tokens`));
  const kept = run.bytes ?? 0;
  const full = run.bytesFull ?? 0;
  $("memory").hidden = !full;
  $("memory-bar").firstElementChild.style.width = full ? `${Math.min(100, (100 * kept) / full)}%` : "0";
  $("memory-bar").setAttribute("aria-label", `${share(kept, full)} of the memory of a full cache`);
  $("memory-text").textContent = `Cache ${bytes(kept)}: ${share(kept, full)} of the ${bytes(full)} that full takes` +
    (run.bytesPeak > kept ? `; ${bytes(run.bytesPeak)} while reading` : "");
}

/* Heads. */

// What a head keeps of the prompt, from the trace; without a trace yet, of all tokens, from its count.
function keptBy(index) {
  if (run.trace?.complete[index]) return { n: run.trace.counts[index], of: run.promptTokens };
  const slots = run.detail?.[index];
  return slots ? { n: slots.slots, of: slots.slots + slots.evicted } : null;
}

function chooseHead(index) {
  head = index;
  if (index >= 0) moveFocusCell(index);
  $("all-heads").disabled = head < 0;
  cells.forEach((cell, i) => cell.setAttribute("aria-selected", i === head));
  shade();
  inspect(-1);
}

function moveFocusCell(index) {
  cells[focusCell].tabIndex = -1;
  focusCell = index;
  cells[focusCell].tabIndex = 0;
}

function buildGrid() {
  const { layers, heads } = run;
  const rows = [];
  cells = new Array(layers * heads);
  for (let h = 0; h < heads; h++) {
    const row = el("div", { role: "row" }, el("span", { role: "rowheader", className: "head-name" }, `h${h}`));
    for (let l = 0; l < layers; l++) {
      const cell = el("div", { role: "gridcell", tabIndex: -1, className: "k0" });
      cell.dataset.index = l * heads + h;
      cells[l * heads + h] = cell;
      row.append(cell);
    }
    rows.push(row);
  }
  const names = el("div", { role: "row", className: "layer-names" }, el("span", { role: "columnheader" }, "layer"));
  for (let l = 0; l < layers; l++) names.append(el("span", { role: "columnheader" }, l % 5 ? "" : String(l)));
  $("grid").replaceChildren(...rows, names);
  $("grid").style.setProperty("--layers", layers);
  focusCell = 0;
  head = -1;
  cells[0].tabIndex = 0;
}

function showGrid() {
  if (shape !== `${run.layers}x${run.heads}`) {
    shape = `${run.layers}x${run.heads}`;
    buildGrid();
  }
  let least = Infinity;
  let most = 0;
  cells.forEach((cell, i) => {
    const kept = keptBy(i);
    const level = kept ? levelOf(kept.n, kept.of) : 0;
    if (cell.dataset.level !== String(level)) {
      cell.dataset.level = level;
      cell.className = `k${level}`;
    }
    cell.setAttribute("aria-label", headName(i) + (kept ? `: keeps ${count(kept.n)} of ${count(kept.of)} tokens` : ""));
    if (kept) {
      least = Math.min(least, kept.n);
      most = Math.max(most, kept.n);
    }
  });
  $("grid-facts").textContent = least > most ? "" : least === most ? `each keeps ${count(most)} tokens`
    : `keep ${count(least)} to ${count(most)} tokens`;
  cells.forEach((cell, i) => cell.setAttribute("aria-selected", i === head));
}

const GRID_STEPS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

function onGridKey(event) {
  const { layers, heads } = run;
  let layer = Math.floor(focusCell / heads);
  let row = focusCell % heads;
  const choice = { Enter: focusCell === head ? -1 : focusCell, " ": focusCell === head ? -1 : focusCell, Escape: -1 }[event.key];
  if (choice !== undefined) {
    event.preventDefault();
    chooseHead(choice);
    return;
  }
  if (event.key === "Home") layer = 0;
  else if (event.key === "End") layer = layers - 1;
  else if (GRID_STEPS[event.key]) {
    layer = Math.min(layers - 1, Math.max(0, layer + GRID_STEPS[event.key][0]));
    row = Math.min(heads - 1, Math.max(0, row + GRID_STEPS[event.key][1]));
  } else return;
  event.preventDefault();
  moveFocusCell(layer * heads + row);
  cells[focusCell].focus();
  tell(focusCell);
}

/* Tokens. */

function shown(token) {
  if (token.text === "" && token.bytes) return "·";
  return token.text.replaceAll("\n", "↵").replaceAll("\t", "→");
}

function buildTokens() {
  const blocks = [];
  let block = null;
  const option = el("span", { role: "option" });
  spans = read.tokens.map((token, i) => {
    const span = option.cloneNode();
    span.id = `t${i}`;
    span.textContent = shown(token);
    if (!block) blocks.push((block = el("div", { role: "presentation" })));
    block.append(span);
    if (token.text.includes("\n")) block = null;
    return span;
  });
  classes = new Array(spans.length).fill("");
  current = 0;
  pointed = -1;
  $("tokens").replaceChildren(...blocks);
  $("tokens").removeAttribute("aria-activedescendant");
}

// The heads that the shades count: those with known positions.
const complete = () => (run.trace ? run.trace.complete.filter(Boolean).length : 0);

function shade() {
  const trace = run.trace;
  const of = complete();
  const one = head >= 0 && trace?.complete[head];
  for (let i = 0; i < spans.length; i++) {
    const level = !trace || (head >= 0 && !one) ? "plain" : one ? (trace.holds(head, i) ? "k8" : "k0") : `k${levelOf(trace.by[i], of)}`;
    const wanted = level + (found.has(i) ? " found" : "") + (i === current ? " current" : "");
    if (classes[i] !== wanted) spans[i].className = classes[i] = wanted;
  }
  const ends = head >= 0 ? ["dropped", "held"] : ["no head", "all heads"];
  const levels = head >= 0 ? [0, 8] : [0, 1, 2, 3, 4, 5, 6, 7, 8];
  $("legend").replaceChildren(ends[0], ...levels.map((k) => el("i", { className: `k${k}` })), ends[1]);
  $("legend").setAttribute("aria-label", `Shades from ${ends[0]} to ${ends[1]}`);
  $("legend").hidden = !trace;
}

// The heads that hold each of these tokens.
function holdersOf(tokens) {
  const { trace } = run;
  const all = [];
  for (let h = 0; trace && tokens.length && h < cells.length; h++)
    if (trace.complete[h] && tokens.every((token) => trace.holds(h, token))) all.push(h);
  return all;
}
const foundHolders = () => holdersOf([...found]);

function dot(heads) {
  const dotted = new Set(heads);
  cells.forEach((cell, h) => cell.classList.toggle("holds", dotted.has(h)));
}

function describe(i) {
  const token = read.tokens[i];
  const text = token.bytes ? `a part of “${token.whole || "�"}”, bytes ${token.bytes.map((b) => b.toString(16).padStart(2, "0")).join(" ")}`
    : `“${token.text.replaceAll("\n", "↵")}”`;
  const where = `Token ${count(i + 1)} of ${count(spans.length)}: ${text}, id ${read.ids[i]}`;
  if (!run.trace) return where + ".";
  if (head >= 0 && run.trace.complete[head]) return `${where}, ${run.trace.holds(head, i) ? "held" : "dropped"} by ${headName(head)}; ` +
    `${run.trace.by[i]} of ${complete()} heads hold it.`;
  return `${where}, held by ${run.trace.by[i]} of ${complete()} heads.`;
}

function resting() {
  if (!run.trace) return run.state === "stopped" ? "Stopped. Which tokens are held is known only at the end of an answer."
    : run.state === "failed" ? "" : run.locked ? "This server fixes the policy and does not say which tokens are held."
    : run.state === "done" ? "The answer does not say which tokens are held." : "Which tokens are held is known when the answer ends.";
  if (head >= 0) {
    const kept = keptBy(head);
    return `${headName(head)[0].toUpperCase()}${headName(head).slice(1)} holds ${count(kept.n)} of ${count(kept.of)} tokens.` +
      (run.trace.complete[head] ? "" : " Its list was too long to be sent.");
  }
  if (found.size) {
    return `The ${found.size} tokens of “${$("find").value.trim()}” are all held by ${foundHolders().length} of ${complete()} heads (dots).`;
  }
  const dropped = run.trace.by.reduce((sum, n) => sum + (n === 0), 0);
  const missing = nHeads() - complete();
  return `${count(dropped)} of ${count(spans.length)} tokens are held by no head.` +
    (missing ? ` ${missing} heads are left out: their lists were too long to be sent.` : "") + " Point at a token to see its holders.";
}

function inspect(i) {
  pointed = i;
  dot(i >= 0 ? holdersOf([i]) : foundHolders());
  $("inspector").textContent = i >= 0 ? describe(i) : read ? resting() : "";
}

function tell(cell) {
  const kept = keptBy(cell);
  $("inspector").textContent = kept ? `${headName(cell)} keeps ${count(kept.n)} of ${count(kept.of)} tokens.` : "";
}

function moveTo(i) {
  const before = current;
  current = Math.min(spans.length - 1, Math.max(0, i));
  for (const k of [before, current])
    spans[k].className = classes[k] = classes[k].replace(" current", "") + (k === current ? " current" : "");
  spans[before].removeAttribute("aria-selected");
  spans[current].setAttribute("aria-selected", "true");
  spans[current].scrollIntoView({ block: "nearest" });
  $("tokens").setAttribute("aria-activedescendant", `t${current}`);
  inspect(current);
}

// The token above or below: the nearest one in the next line that has tokens.
function inLine(step) {
  const here = spans[current].getBoundingClientRect();
  let top = null;
  let best = current;
  for (let i = current + step; i >= 0 && i < spans.length; i += step) {
    const there = spans[i].getBoundingClientRect();
    if (Math.abs(there.top - here.top) < 4) continue;
    if (top !== null && Math.abs(there.top - top) >= 4) break;
    const nearer = top === null || Math.abs(there.left - here.left) < Math.abs(spans[best].getBoundingClientRect().left - here.left);
    if (nearer) best = i;
    top = there.top;
  }
  return best;
}

function onTokenKey(event) {
  if (!spans.length) return;
  const steps = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: spans.length - 1,
    PageDown: current + 200, PageUp: current - 200 };
  if (event.key === "Escape") chooseHead(-1);
  else if (event.key in steps) moveTo(steps[event.key]);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") moveTo(inLine(event.key === "ArrowDown" ? 1 : -1));
  else return;
  event.preventDefault();
}

export function find(words) {
  $("find").value = words;
  found = read ? tokensWith(read, words.trim()) : new Set();
  if (!run) return;
  shade();
  if (pointed < 0) inspect(-1);
  const first = Math.min(...found);
  if (found.size) scrollTo(spans[first]);
}

// Scrolls the list and not the page. Lines that have not been shown have estimated heights (content-visibility),
// which are corrected after the frame that shows them, so it takes a few frames.
function scrollTo(span, steps = 6) {
  if (!span.isConnected || steps === 0) return;
  const off = span.getBoundingClientRect().top - $("tokens").getBoundingClientRect().top - 60;
  if (Math.abs(off) >= 4) $("tokens").scrollTop += off;
  requestAnimationFrame(() => scrollTo(span, steps - 1));
}

/* The whole picture. */

// Shows an answer, or updates what is shown. `answer` has: label, policyName, budget, state, n, promptTokens,
// cachedTokens, ttftMs, rate, bytes, bytesFull, bytesPeak, layers, heads, detail, trace, read.
export function show(answer) {
  run = answer;
  $("cache-empty").hidden = true;
  $("cache-shown").hidden = false;
  showFacts();
  const same = drawn.run === run && drawn.detail === run.detail && drawn.trace === run.trace && drawn.state === run.state;
  if (same && read === answer.read) return;
  drawn = { run, detail: run.detail, trace: run.trace, state: run.state };
  if (head >= nHeads() || !answer.read) head = -1;
  showGrid();
  if (read !== answer.read) {
    read = answer.read;
    $("tokens").hidden = !read;
    if (read) buildTokens();
    else $("tokens").replaceChildren(), (spans = []), (classes = []);
    find($("find").value);
  }
  $("all-heads").disabled = head < 0;
  shade();
  if (pointed < 0) inspect(-1);
}

export function clear() {
  run = read = null;
  drawn = {};
  spans = [];
  classes = [];
  pointed = -1;
  $("tokens").replaceChildren();
  $("cache-empty").hidden = false;
  $("cache-shown").hidden = true;
}

function cellOf(event) {
  const cell = event.target.closest("[data-index]");
  return cell ? Number(cell.dataset.index) : -1;
}

function tokenOf(event) {
  const span = event.target.closest("#tokens span");
  return span ? Number(span.id.slice(1)) : -1;
}

export function start() {
  $("grid").addEventListener("keydown", onGridKey);
  $("grid").addEventListener("click", (event) => cellOf(event) >= 0 && chooseHead(cellOf(event) === head ? -1 : cellOf(event)));
  $("grid").addEventListener("pointerover", (event) => cellOf(event) >= 0 && tell(cellOf(event)));
  $("grid").addEventListener("pointerleave", () => inspect(-1));
  $("all-heads").addEventListener("click", () => {
    chooseHead(-1);
    cells[focusCell].focus();
  });
  $("tokens").addEventListener("keydown", onTokenKey);
  $("tokens").addEventListener("focus", () => spans.length && inspect(current));
  $("tokens").addEventListener("blur", () => run && inspect(-1));
  $("tokens").addEventListener("pointerover", (event) => tokenOf(event) >= 0 && inspect(tokenOf(event)));
  $("tokens").addEventListener("pointerleave", () => run && inspect(-1));
  $("tokens").addEventListener("click", (event) => tokenOf(event) >= 0 && moveTo(tokenOf(event)));
  $("find").addEventListener("input", () => find($("find").value));
}
