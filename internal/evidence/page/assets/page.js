"use strict";
// Shows a bundle and what the verifier said about it. Everything that comes from a bundle is put into the page as text.
(() => {
const $ = (id) => document.getElementById(id);
const state = { go: null, bytes: null, bundle: null, report: null, shown: 0, hits: [] };
const step = 200, printed = 5000;

// make returns an element with text or children.
const make = (name, className, ...children) => {
  const e = document.createElement(name);
  if (className) e.className = className;
  for (const c of children) e.append(typeof c === "string" ? safe(c) : c);
  return e;
};
const fill = (id, ...children) => $(id).replaceChildren(...children);
const items = (id, texts) => fill(id, ...texts.map((t) => make("li", "", t)));

// safe shows characters that would hide, forge or reorder text as escapes; docs/cli.md lists them.
const unsafe = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const safe = (s) => s.replace(unsafe, (c) => {
  const n = c.codePointAt(0);
  return n > 0xffff ? "\\U" + n.toString(16).padStart(8, "0") : "\\u" + n.toString(16).padStart(4, "0");
});

// pretty indents JSON without reading its numbers, so that they stay as they were spelled.
const pretty = (json) => {
  let out = "", depth = 0, inString = false;
  const line = () => "\n" + "  ".repeat(Math.min(depth, 40));
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (inString) {
      out += c;
      if (c === "\\") out += json[++i];
      else if (c === '"') inString = false;
    } else if (c === '"') { inString = true; out += c; }
    else if ((c === "{" || c === "[") && (json[i + 1] === "}" || json[i + 1] === "]")) { out += c + json[++i]; }
    else if (c === "{" || c === "[") { depth++; out += c + line(); }
    else if (c === "}" || c === "]") { depth--; out += line() + c; }
    else if (c === ",") out += c + line();
    else if (c === ":") out += ": ";
    else out += c;
  }
  return out;
};

// member cuts one member of an entry's line out as it is spelled.
const member = (line, name) => {
  const at = line.indexOf(',"' + name + '":{');
  if (at < 0) return "";
  let depth = 0, inString = false;
  const from = at + name.length + 4;
  for (let i = from; i < line.length; i++) {
    const c = line[i];
    if (inString) { if (c === "\\") i++; else if (c === '"') inString = false; }
    else if (c === '"') inString = true;
    else if (c === "{") depth++;
    else if (c === "}" && --depth === 0) return line.slice(from, i + 1);
  }
  return "";
};

const base64 = (text) => Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
const count = (n) => n.toLocaleString("en");
const entries = (n) => count(n) + (n === 1 ? " entry" : " entries");
const parse = (line) => { try { return JSON.parse(line); } catch { return {}; } };

async function load() {
  const packed = base64($("verifier").textContent);
  const wasm = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  const go = new Go();
  const { instance } = await WebAssembly.instantiate(wasm, go.importObject);
  go.run(instance); // it sets immutableExtract and immutableVerify, and waits for calls
  state.go = { extract: globalThis.immutableExtract, verify: globalThis.immutableVerify };
}

// verify runs the verifier with what the reader knows and shows the report.
function verify() {
  const began = performance.now();
  const answer = JSON.parse(state.go.verify(state.bytes, $("keys").value, $("checkpoint").value, $("policy").value));
  const took = performance.now() - began;
  $("know-error").textContent = safe(answer.error || "");
  if (!answer.report) return;
  state.report = answer.report;
  $("took").textContent = "Verified on this computer in " + Math.max(1, Math.round(took)) + " ms. ";
  document.documentElement.dataset.took = String(took);
  show();
  document.documentElement.dataset.verdict = state.report.verdict;
}

const words = {
  proven: ["good", "Proven", "Everything agrees, also with what you gave from elsewhere."],
  consistent: ["warn", "Consistent", "Everything in this file agrees with itself. Nothing from elsewhere was there to compare it with: give a key below."],
  refuted: ["bad", "Refuted", "Something in this file was changed, is missing or was forged."],
  unknown: ["warn", "Unknown", "What you demand could not be shown."],
};

function show() {
  const r = state.report, [colour, word, say] = words[r.verdict];
  $("verdict").className = "box " + colour;
  $("word").textContent = word;
  $("say").textContent = say;
  fill("findings", ...r.findings.map((f) => {
    const place = f.where + (f.index >= 0 ? ", entry " + f.index : "");
    const li = make("li", "", make("strong", "", place), ": " + f.what);
    if (f.got || f.want) li.append(make("div", "mono", "found " + (f.got || "nothing")), make("div", "mono", "expected " + (f.want || "nothing")));
    return li;
  }));
  items("notes", r.open.concat(r.notes));
  items("basis", r.basis.map((b) => "Stands on: " + b.detail));
  items("proves", r.proves);
  items("limits", r.limits);
  $("rest").hidden = false;
  if (r.origin) {
    $("subtitle").textContent = safe("of the log " + r.origin);
    document.title = "Evidence: " + safe(r.origin);
  }
  showAsked(r);
  showSigned(r);
  search();
}

function rows(id, pairs) {
  fill(id, ...pairs.filter((p) => p[1] !== "").flatMap(([k, v]) => [make("dt", "", k), make("dd", "", v)]));
}

function showAsked(r) {
  const s = r.statement;
  rows("asked", [
    ["Query", s.query === "" ? "(everything)" : s.query], ["Levels", (s.levels || []).join(", ")], ["Since", s.since], ["Until", s.until],
    ["Indexes", s.from + " up to, not including, " + s.to], ["Entries", count(s.count)], ["Made", s.made], ["With", s.program],
    ["Complete", r.complete ? "yes: nothing in this range is missing" : "no: a selection"],
  ]);
}

function showSigned(r) {
  rows("checked", [["Log", r.origin], ["Size", entries(r.size)], ["Root", r.root], ["Epoch of keys", String(r.epoch)]]);
  const role = { log: "the log key", epoch: "a key of the epoch", witness: "a witness", unknown: "unknown signer, not checked" };
  fill("signatures", ...(r.signatures || []).map((s) => make("li", "",
    (s.good ? "✓ " : "· ") + s.name + "+" + s.id + ": " + role[s.role] + (s.role === "witness" ? (s.known ? ", of your policy" : ", of the bundle’s own policy") : "") +
    (s.time && s.role === "witness" ? ", at " + s.time : ""))));
  items("times", r.times.length === 0 ? ["Nobody outside, as far as this file shows."] : r.times.map((t) =>
    "size " + t.size + (t.checked ? ": " + t.name + " at " + t.time + (t.trusted ? ", trusted by you" : ", on the word of the bundle’s own policy or an authority you have not named") : ": a time stamp, not checked here")));
  fill("chain", ...(r.keys || []).map((k) => make("li", "", "Epoch " + k.epoch + (k.epoch ? ", sizes above " + k.after : "") + ": " + k.vkeys.map((v) => v.slice(0, v.lastIndexOf("+"))).join(" and "))));
  fill("vkeys", ...(r.keys || []).map((k) => scrolled(k.vkeys.join("\n"), "keys of epoch " + k.epoch)));
  fill("note", safe(state.bundle ? state.bundle.checkpoint : ""));
}

// search lists the entries that hold the text, without regard to case.
function search() {
  const all = state.bundle ? state.bundle.entries : [];
  const text = $("search").value.toLowerCase();
  state.hits = text === "" ? all : all.filter((e) => e.line.toLowerCase().includes(text) || (parse(e.line).message || "").toLowerCase().includes(text));
  state.shown = 0;
  fill("rows");
  more(step);
}

function more(n) {
  const altered = new Set(state.report.findings.filter((f) => f.index >= 0).map((f) => f.index));
  const list = document.createDocumentFragment();
  const end = Math.min(state.hits.length, state.shown + n);
  for (; state.shown < end; state.shown++) list.append(row(state.hits[state.shown], altered));
  $("rows").append(list);
  const all = state.bundle ? state.bundle.entries.length : 0;
  $("count").textContent = state.hits.length === all ? entries(all) : count(state.hits.length) + " of " + entries(all);
  if (end < state.hits.length) $("count").textContent += ", the first " + count(end) + " shown";
  $("more").hidden = end === state.hits.length;
}

function row(e, altered) {
  const v = parse(e.line);
  const level = typeof v.level === "string" && /^[A-Z]+$/.test(v.level) ? v.level : "";
  const button = make("button", "", "Details");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", "Details of entry " + e.index);
  const message = make("td", "m", button);
  if (altered.has(e.index)) message.append(make("strong", "altered", "Does not verify. "));
  message.append(safe(String(v.message ?? "")));
  const tr = make("tr", "e", make("td", "i", String(e.index)), make("td", "t", String(v.timestamp ?? "")), make("td", "l " + level, level), message);
  for (const td of tr.children) td.setAttribute("role", "cell");
  tr.setAttribute("role", "row");
  button.addEventListener("click", () => {
    if (button.getAttribute("aria-expanded") === "true") {
      tr.nextSibling.remove();
      button.setAttribute("aria-expanded", "false");
      return;
    }
    tr.after(details(e, v));
    button.setAttribute("aria-expanded", "true");
  });
  return tr;
}

function details(e, v) {
  const td = make("td", "");
  td.colSpan = 4;
  for (const name of ["metadata", "producer", "log"]) {
    const raw = member(e.line, name);
    if (raw !== "" && raw !== "{}") td.append(make("div", "muted", name === "log" ? "what the log itself recorded" : name), scrolled(pretty(raw), name));
  }
  const also = ["hostname", "pid", "eventTime", "traceId", "spanId", "idempotencyKey", "id"].filter((n) => v[n] !== undefined);
  td.append(make("div", "muted", also.map((n) => n + " " + v[n]).join(" · ")));
  td.append(make("div", "muted", "leaf hash " + e.leaf), make("div", "muted", "the line as it was hashed"), scrolled(e.line, "line"));
  return make("tr", "d", td);
}

function scrolled(text, name) {
  const pre = make("pre", "", text);
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", name);
  return pre;
}

// open takes the bytes of a bundle, a page or its data, and verifies them.
function open(bytes) {
  const answer = JSON.parse(state.go.extract(bytes));
  state.bytes = bytes;
  state.bundle = null;
  try { state.bundle = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(answer.from, answer.to))); } catch { /* the verifier says what is wrong with it */ }
  if (state.bundle !== null && !(Array.isArray(state.bundle.entries) && typeof state.bundle.checkpoint === "string")) state.bundle = null;
  if (answer.error) return failed(answer.error);
  $("verdict").hidden = false;
  verify();
}

function failed(why) {
  $("verdict").hidden = false;
  $("verdict").className = "box bad";
  $("word").textContent = "Not verified";
  $("say").textContent = safe(String(why));
  $("rest").hidden = true;
  document.documentElement.dataset.verdict = "failed";
}

async function start() {
  const alone = document.body.dataset.mode === "page";
  $("know").addEventListener("submit", (event) => { event.preventDefault(); if (state.bytes) verify(); });
  $("search").addEventListener("input", search);
  $("more").addEventListener("click", () => more(step));
  addEventListener("beforeprint", () => { if (state.report) more(printed); });
  await load();
  if (!alone) {
    open(new TextEncoder().encode($("immutable-bundle").textContent.trim()));
    return;
  }
  $("title").textContent = "Verify an evidence bundle";
  $("origin-of-verifier").textContent = "This page’s verifier did not come with the evidence. It is as good as the place you got this page from. Two more ways to verify, and to get this page:";
  $("verdict").hidden = true;
  $("drop").hidden = false;
  const read = async (file) => { try { open(new Uint8Array(await file.arrayBuffer())); } catch (e) { failed(e); } };
  $("file").addEventListener("change", () => { if ($("file").files.length) read($("file").files[0]); });
  addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", () => $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files.length) read(event.dataTransfer.files[0]);
  });
  document.documentElement.dataset.ready = "yes";
}

start().catch(failed);
})();
