// Verify: run it, watch it, look back; compare checkpoints; and let this browser check what somebody else sent.

import { h, fill, count, when, problem, say, bytes, short } from "./dom.js";
import { get, post, logPath } from "./api.js";
import { consistency, fromBase64, checkReceipt } from "./proof.js";
import { proven } from "./entry.js";
import { standing } from "./overview.js";

const maxFile = 256 << 20; // bytes of a file that is dropped here

export async function verify(main, page) {
  const path = logPath(page.tenant, page.log);
  const head = h("div"), runs = h("div"), points = h("div"), result = h("div", { "aria-live": "polite" });
  fill(main, h("h1", {}, `Verify ${page.tenant} / ${page.log}`), head,
    h("section", { class: "card" }, h("h2", {}, "Runs"), runs),
    h("section", { class: "card" }, h("h2", {}, "Checkpoints"), h("p", { class: "faint" }, "What this log has signed of itself. Choose two: this browser checks that the older one is the beginning of the newer."), points),
    h("section", { class: "card" }, h("h2", {}, "Check a receipt or bundle"),
      h("p", {}, "A receipt (.json) or an evidence bundle (.html or .json) is verified in this browser. It is not uploaded."), drop(result), result));
  await Promise.all([history(head, runs, page, path), checkpoints(points, page, path).catch((err) => { if (err.name !== "AbortError") fill(points, problem(err)); })]);
}

async function history(head, runs, page, path) {
  let list;
  try {
    list = await get(path + "/verifications", {}, page.signal);
  } catch (err) {
    if (err.name !== "AbortError") fill(runs, err.status === 403 ? h("p", {}, "Your role does not see verifications. An auditor's does.") : problem(err));
    return;
  }
  const s = standing(list.status);
  const start = h("button", { class: "primary", type: "button", onclick: async () => {
    start.disabled = true;
    try {
      await post(path + "/verifications", {});
      await history(head, runs, page, path);
    } catch (err) {
      fill(head, problem(err, () => history(head, runs, page, path)));
    }
  } }, "Verify now");
  const busy = list.verifications.find((v) => v.phase !== "done" && v.phase !== "failed" && !v.ended);
  fill(head, h("div", { class: "card " + s.tone }, h("p", { class: "standing" }, h("span", { class: "mark " + s.tone, "aria-hidden": "true" }, s.mark), " ", s.text), busy ? watching(busy) : start));
  fill(runs, list.verifications.length ? h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Runs" }, h("table", {}, h("thead", {}, h("tr", {}, ["When", "What", "By", "Read", "Verdict"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, list.verifications.map((v) => h("tr", {}, h("td", {}, when(v.created)), h("td", {}, v.scope, " · ", v.trigger), h("td", {}, v.by || ""), h("td", {}, `${count(v.progress.entries)} entries, ${bytes(v.progress.bytes)}`),
      h("td", {}, verdict(v), " ", h("a", { href: `${path}/verifications/${v.id}`, target: "_blank", rel: "noopener" }, "report"))))))) : h("p", {}, "None yet."));
  if (busy) setTimeout(() => { if (!page.signal.aborted) history(head, runs, page, path); }, 500);
  else say(s.text);
}

function watching(v) {
  const all = v.progress.totalBytes || 0, share = all ? v.progress.bytes / all : 0;
  return h("p", {}, h("progress", { max: 1, value: all ? share : null, "aria-label": "Verification" }), ` ${v.phase}: ${count(v.progress.entries)} of ${count(v.progress.totalEntries)} entries`);
}

function verdict(v) {
  const tone = { proven: "green", consistent: "amber", refuted: "red" }[v.verdict] || "grey";
  return h("span", { class: "verdictword " + tone }, v.verdict || v.error || v.phase);
}

async function checkpoints(points, page, path) {
  const r = await get(path + "/checkpoints", { limit: 1000 }, page.signal);
  const list = r.checkpoints.slice().reverse();
  const out = h("div", { "aria-live": "polite" });
  const radio = (name, c, i) => h("input", { type: "radio", name, value: c.size, checked: name === "newer" ? i === 0 : i === Math.min(1, list.length - 1), "aria-label": `${name}: ${c.size} entries` });
  const form = h("form", { onsubmit: async (e) => {
    e.preventDefault();
    const f = new FormData(form);
    try {
      fill(out, await compare(list, path, Number(f.get("older")), Number(f.get("newer")), page));
    } catch (err) {
      fill(out, problem(err));
    }
  } }, h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Checkpoints" }, h("table", {}, h("thead", {}, h("tr", {}, ["Older", "Newer", "Entries", "Root", "Signatures"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, list.slice(0, 200).map((c, i) => h("tr", {}, h("td", {}, radio("older", c, i)), h("td", {}, radio("newer", c, i)), h("td", {}, count(c.size)), h("td", {}, short(c.root)), h("td", {}, signers(c.note))))))),
  h("button", { type: "submit" }, "Compare"), out);
  fill(points, form);
}

// signers names who has signed a note; a log's key and witnesses sign under their names.
function signers(note) {
  const names = note.split("\n").filter((l) => l.startsWith("— ")).map((l) => l.split(" ")[1]);
  const n = {};
  for (const name of names) n[name] = (n[name] || 0) + 1;
  return Object.entries(n).map(([name, k]) => h("span", { class: "signer" }, name + (k > 1 ? ` ×${k}` : "")));
}

async function compare(list, path, a, b, page) {
  const [older, newer] = [Math.min(a, b), Math.max(a, b)];
  const of = (size) => fromBase64(list.find((c) => c.size === size).root);
  const hashes = older === newer || older === 0 ? [] : (await get(path + "/consistency", { from: older, to: newer }, page.signal)).hashes;
  const ok = await consistency(older, of(older), newer, of(newer), hashes.map(fromBase64));
  return ok ? h("p", { class: "verdict green" }, h("strong", {}, "✓ One grows out of the other."), ` The log of ${count(newer)} entries begins with exactly the ${count(older)} entries of the older checkpoint. Recomputed in this browser from ${hashes.length} hashes.`)
    : h("p", { class: "verdict red", role: "alert" }, h("strong", {}, "✕ They contradict each other."), " The newer log does not begin with the older one. Keep both checkpoints: together they are evidence.");
}

function drop(result) {
  const take = async (file) => {
    fill(result, h("p", { class: "faint" }, `reading ${file.name}…`));
    try {
      if (file.size > maxFile) throw new Error(`the file has more than ${bytes(maxFile)}; verify it with: immutable verify --bundle`);
      fill(result, await check(new Uint8Array(await file.arrayBuffer())));
    } catch (err) {
      fill(result, problem({ title: "This file cannot be verified here", detail: err.message }));
    }
  };
  const input = h("input", { type: "file", id: "file", onchange: (e) => e.target.files[0] && take(e.target.files[0]) });
  const zone = h("div", { class: "drop",
    ondragover: (e) => { e.preventDefault(); zone.classList.add("over"); }, ondragleave: () => zone.classList.remove("over"),
    ondrop: (e) => { e.preventDefault(); zone.classList.remove("over"); if (e.dataTransfer.files[0]) take(e.dataTransfer.files[0]); } },
  h("label", { for: "file" }, "Drop a file here, or choose one"), input);
  return zone;
}

// check tells a receipt from a bundle, and verifies it.
async function check(data) {
  if (data.length < 4 << 20) {
    let value = null;
    try { value = JSON.parse(new TextDecoder().decode(data)); } catch { /* then it is none */ }
    if (value && typeof value.proof === "string" && typeof value.line === "string") {
      await checkReceipt(value).catch(() => {});
      return [h("h3", {}, `Receipt of entry ${count(value.index)} of ${value.origin}`), await proven(value), h("pre", { class: "raw", tabindex: 0 }, value.line)];
    }
  }
  const verifier = await wasm();
  const r = JSON.parse(verifier(data, "", "", ""));
  if (r.error) throw new Error(r.error);
  const v = r.report.verdict;
  const tone = { proven: "green", consistent: "amber", refuted: "red" }[v] || "grey";
  return [h("p", { class: "verdict " + tone }, h("strong", {}, v.toUpperCase()), " by the same verifier as the command's, compiled to WebAssembly. No key from outside was given: for a key of your own, open the bundle itself or use ", h("code", {}, "immutable verify --bundle"), "."),
    h("details", {}, h("summary", {}, "Report"), h("pre", { class: "raw", tabindex: 0 }, JSON.stringify(r.report, null, 2)))];
}

let loaded = null;
// wasm loads the verifier when it is first needed: it is larger than everything else here.
function wasm() {
  loaded ||= (async () => {
    await import("/desk/wasm_exec.js");
    const go = new globalThis.Go();
    const { instance } = await WebAssembly.instantiateStreaming(fetch("/desk/verifier.wasm"), go.importObject);
    go.run(instance);
    return globalThis.immutableVerify;
  })().catch((err) => { loaded = null; throw err; });
  return loaded;
}
