// Creates elements, and formats numbers for people.

export const $ = (id) => document.getElementById(id);

// el("p", { className: "hint", onclick: f, "aria-label": "x" }, "text", child)
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties))
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (n) => whole.format(n);
export const share = (part, of) => (of > 0 ? (part < of && (100 * part) / of > 99.5 ? "99" : Math.round((100 * part) / of)) : 0) + " %";
export const seconds = (ms) => (ms < 9950 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(1)} s`);
export const perSecond = (rate) => `${rate < 100 ? rate.toFixed(1) : count(rate)}/s`;

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; n >= 1024 && at < units.length - 1; at++) n /= 1024;
  return `${n < 10 && at > 0 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}
