// The policy picker. GET /v1/kv/policies has the presets, their axes and ranges; POST
// /v1/kv/policies/resolve says how much memory a choice would take.

import { call } from "./api.js";
import { $, bytes, count, el } from "./dom.js";

// Not shown as axes: fields of the picker, and what only the operator or the page decides.
const NOT_AXES = new Set(["name", "budget", "trace", "storage"]);

let presets = [];
let schema = {};
let defaultName = "full";
let longest = 8192; // the model's context, for the slider
let promptTokens = 1024; // the length of the prompt that the bound is for
let changed = () => {};
const choice = { name: "full", unit: "share", unitBefore: "", share: 20, slots: 1024, axes: {} };

const presetOf = (name) => presets.find((preset) => preset.name === name);
const current = () => presetOf(choice.name);
const takesBudget = (preset) => preset !== undefined && preset.defaults.budget !== undefined;
const isByProfile = (preset) => preset.follows.budget !== undefined; // the budget comes from the head profile
export const isLocked = () => presets.length > 0 && !presets.some((preset) => preset.available);

// The smallest budget, in slots, that holds what the policy always keeps. With a head profile it also depends on
// the heads that keep everything, which only the server knows: a budget that is too small is refused there.
function floorOf(preset, axes) {
  if (isByProfile(preset)) return 0;
  const of = (axis) => Number(axes[axis] ?? (preset.follows[axis] ? 0 : preset.defaults[axis]) ?? 0);
  const rule = preset.follows.recent;
  if (rule === "half of the budget" && axes.recent === undefined) return Math.max(2, 2 * of("sinks") + 1);
  const recent = rule === "window" ? Math.max(of("recent"), of("window")) : of("recent");
  return Math.max(2, of("sinks") + recent + 1);
}

// {policy, label, note} for a prompt of nPrompt tokens; null when requests may not name a policy. A share of
// a short prompt can be less than the policy always keeps. Then the budget is raised, and the note says so.
export function planFor(name, nPrompt) {
  const preset = presetOf(name);
  if (isLocked() || !preset) return null;
  const axes = name === choice.name ? choice.axes : {};
  const policy = { name, ...axes, trace: true };
  const plan = { policy, label: name, note: "" };
  if (!takesBudget(preset) || choice.unit === "default") return plan;
  if (choice.unit === "slots") {
    policy.budget = choice.slots;
    plan.label += `, ${count(choice.slots)} tokens`;
    return plan;
  }
  policy.budget = choice.share / 100;
  plan.label += `, ${choice.share} %`;
  const floor = floorOf(preset, axes);
  if (nPrompt && Math.round(policy.budget * nPrompt) < floor) {
    plan.note = `${choice.share} % of ${count(nPrompt)} tokens is less than ${name} always keeps; it got ${floor}.`;
    policy.budget = floor;
  }
  return plan;
}

export const chosenName = () => choice.name;

function field(axis, preset) {
  const rule = schema[axis] || {};
  const own = preset.defaults[axis];
  const standard = preset.follows[axis] && !rule.enum ? undefined : own; // an axis that follows from others has no number of its own
  const input = el(rule.enum ? "select" : "input");
  if (rule.enum) {
    for (const value of rule.enum.includes(standard) ? rule.enum : [standard, ...rule.enum])
      input.append(new Option(value));
    input.value = choice.axes[axis] ?? standard;
  } else {
    input.type = "number";
    if (rule.minimum !== undefined) input.min = rule.minimum;
    if (rule.maximum !== undefined) input.max = rule.maximum;
    input.step = rule.type === "number" ? "any" : 1;
    input.placeholder = own ?? preset.follows[axis];
    input.value = choice.axes[axis] ?? "";
  }
  input.addEventListener("change", () => {
    const value = rule.enum ? input.value : input.value === "" ? standard : Number(input.value);
    if (value === standard) delete choice.axes[axis];
    else choice.axes[axis] = value;
    show();
  });
  return el("label", {}, axis.replaceAll("_", " "), input);
}

// A policy whose budget follows the head profile starts with that budget; a person may choose another.
function suitUnit(preset) {
  if (isByProfile(preset) && !choice.unitBefore) {
    choice.unitBefore = choice.unit;
    choice.unit = "default";
  } else if (!isByProfile(preset) && choice.unitBefore) {
    choice.unit = choice.unitBefore;
    choice.unitBefore = "";
  }
}

let axesOf = null; // rebuilt only for another policy, so that the field in use keeps its focus
function showAxes(preset) {
  if (axesOf === preset) return;
  axesOf = preset;
  const axes = Object.keys(preset.defaults).filter((axis) => !NOT_AXES.has(axis) && schema[axis]);
  $("axes-fields").replaceChildren(...axes.map((axis) => field(axis, preset)));
  $("axes").hidden = axes.length === 0 || choice.name === "full";
}

function showBudget(preset) {
  const takes = takesBudget(preset);
  const slots = choice.unit === "slots";
  const standard = isByProfile(preset) ? 0 : preset.defaults.budget;
  $("budget").hidden = !takes;
  $("budget-unit").value = choice.unit;
  $("budget-unit").options[2].text = standard ? `default: ${count(standard)} tokens` : "default: by the profile";
  for (const input of [$("budget-number"), $("budget-slider")]) {
    input.disabled = !takes || choice.unit === "default";
    input.min = slots ? 2 : 1;
    input.max = slots ? (input.type === "range" ? longest : schema.budget?.oneOf?.[0]?.maximum ?? 16777216) : 99;
    input.step = 1;
    input.value = choice.unit === "default" ? standard || "" : slots ? choice.slots : choice.share;
  }
}

let asked = null;
async function showBound() {
  asked?.abort();
  const mine = (asked = new AbortController());
  const plan = planFor(choice.name, promptTokens);
  if (!plan) return;
  await new Promise((resolve) => setTimeout(resolve, 250));
  if (mine.signal.aborted) return;
  try {
    const own = await call("v1/kv/policies/resolve", { kv_policy: plan.policy, prompt_tokens: promptTokens }, mine.signal);
    const kept = own.plan.budget && own.plan.budget < promptTokens ? `about ${count(own.plan.budget)} tokens a head` : "everything";
    $("policy-bound").textContent = `Keeps ${kept} of a prompt of ${count(promptTokens)} tokens, which takes ` +
      `${bytes(own.bound.bytes)} at most while it is read.`;
    $("policy-bound").classList.remove("error");
  } catch (e) {
    if (mine.signal.aborted || e.kind !== "http" || e.status !== 400) return; // the page's state shows other errors
    $("policy-bound").textContent = e.message;
    $("policy-bound").classList.add("error");
  }
}

function show() {
  const preset = current();
  if (!preset) return;
  const plan = planFor(choice.name, 0);
  $("policy-summary").textContent = plan ? plan.label : `${defaultName}, fixed by the server`;
  const what = preset.source === "-" ? preset.help[0].toUpperCase() + preset.help.slice(1) : `${preset.source}: ${preset.help}`;
  const again = preset.multi_turn_safe ? "" : " Chooses by the question, so a second question may miss what the first did not need.";
  $("policy-help").textContent = `${what}.${again}`;
  showBudget(preset);
  showAxes(preset);
  showBound();
  changed();
}

function chip(preset) {
  const input = el("input", { type: "radio", name: "policy", value: preset.name, disabled: !preset.available,
    checked: preset.name === choice.name });
  input.addEventListener("change", () => {
    choice.name = preset.name;
    choice.axes = {};
    suitUnit(preset);
    show();
  });
  return el("label", { className: "chip", title: preset.help }, input, el("span", {}, preset.name));
}

// Policies that are not available for the same reason share a line. The server's sentences name the policy.
function showMissing() {
  const reasons = new Map();
  for (const { name, available, reason } of presets) {
    if (available) continue;
    const text = (reason || "not offered").replace(`policy '${name}' `, "").replace(` '${name}'`, "");
    reasons.set(text, [...(reasons.get(text) || []), name]);
  }
  $("policy-missing").replaceChildren(...[...reasons].map(([reason, names]) =>
    el("p", {}, "Not available: ", el("b", {}, names.join(", ")), `: ${reason}.`)));
}

export function choose(name, share) {
  const preset = presetOf(name);
  if (!preset?.available) return;
  axesOf = null;
  suitUnit(preset);
  Object.assign(choice, { name, axes: {} }, share ? { unit: "share", share } : {});
  for (const input of document.querySelectorAll("#policy-names input")) input.checked = input.value === name;
  show();
}

export const isAvailable = (name) => Boolean(presetOf(name)?.available);

export function setPromptTokens(n) {
  if (n === promptTokens || !n) return;
  promptTokens = n;
  showBound();
}

export async function load(context, onChange) {
  const answer = await call("v1/kv/policies");
  const first = presets.length === 0;
  presets = answer.data;
  schema = answer.schema.$defs.plan.properties;
  defaultName = answer.default;
  longest = context;
  changed = onChange;
  if (first || !presetOf(choice.name)?.available) Object.assign(choice, { name: defaultName, axes: {} });
  $("policy-names").replaceChildren($("policy-names").querySelector("legend"), ...presets.map(chip));
  show();
  showMissing();
}

function readNumber(input) {
  const value = Number(input.value);
  if (!input.value || !Number.isFinite(value)) return;
  if (choice.unit === "slots") choice.slots = Math.max(2, Math.round(value));
  else choice.share = Math.min(99, Math.max(1, Math.round(value * 10) / 10));
}

$("budget-unit").addEventListener("change", () => {
  choice.unit = $("budget-unit").value;
  show();
});
$("budget-slider").addEventListener("input", () => {
  readNumber($("budget-slider"));
  show();
});
$("budget-number").addEventListener("change", () => {
  readNumber($("budget-number"));
  show();
});
