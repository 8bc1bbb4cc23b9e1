// The only way in which these pages make elements. Text is set as text: nothing that comes from a log is ever parsed as markup.

const svgNames = new Set(["svg", "rect", "line", "path", "circle", "text", "g"]);

// h makes an element. Properties that begin with "on" are listeners; others are attributes; null, undefined and false are left out.
export function h(tag, props, ...children) {
  const e = svgNames.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value === true ? "" : String(value));
  }
  add(e, children);
  return e;
}

function add(e, children) {
  for (const c of children.flat(Infinity)) {
    if (c === null || c === undefined || c === false) continue;
    e.append(c instanceof Node ? c : document.createTextNode(String(c)));
  }
}

// fill replaces what is in an element.
export function fill(e, ...children) {
  e.replaceChildren();
  add(e, children);
  return e;
}

// say tells a screen reader what has changed.
export function say(text) {
  document.getElementById("said").textContent = text;
}

export const levels = ["INFO", "WARN", "ERROR", "CRITICAL", "AUDIT", "SECURITY", "REVENUE", "SYSTEM"];

export function badge(level) {
  return h("span", { class: "level " + (levels.includes(level) ? level.toLowerCase() : "") }, level);
}

const numbers = new Intl.NumberFormat("en");
export const count = (n) => numbers.format(n);

const times = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });

// when shows a time in the viewer's zone, with UTC on hover and for machines.
export function when(text) {
  if (!text) return h("span", { class: "faint" }, "never");
  const t = new Date(text);
  return h("time", { datetime: text, title: text.replace("T", " ").replace("Z", " UTC") }, isNaN(t) ? text : times.format(t));
}

// ago says how long ago a time was, in one unit.
export function ago(text) {
  const s = (Date.now() - new Date(text)) / 1000;
  if (isNaN(s)) return "never";
  if (s < 5) return "just now";
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]) {
    const n = Math.floor(s / size);
    if (n >= 1) return `${n} ${unit}${n === 1 ? "" : "s"} ago`;
  }
  return "in the future";
}

export function bytes(n) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (n >= size) return (n / size).toFixed(1) + " " + unit;
  }
  return n + " bytes";
}

// short shows the beginning of a hash, and the whole on hover; a click copies it.
export function short(hash) {
  return h("button", { class: "hash", type: "button", title: hash + " (click to copy)", onclick: (e) => {
    navigator.clipboard?.writeText(hash).then(() => say("copied"), () => say("it could not be copied"));
    e.stopPropagation();
  } }, hash.slice(0, 12) + "…");
}

// problem shows an error with what to do next.
export function problem(err, again) {
  return h("div", { class: "problem", role: "alert" },
    h("strong", {}, err.title || "This did not work"), h("p", {}, err.detail || err.message || String(err)),
    err.code ? h("p", { class: "faint" }, h("a", { href: "/errors/" + err.code, target: "_blank", rel: "noopener" }, "what " + err.code + " means")) : null,
    again ? h("button", { type: "button", onclick: again }, "Try again") : null);
}
