// The panel of one entry: what it says, its bytes, its place in the chain, and its proof, computed again in this browser.

import { h, fill, badge, when, short, problem, count } from "./dom.js";
import { get, logPath } from "./api.js";
import { checkReceipt, hex } from "./proof.js";

export function panel(page, index, close) {
  const path = `${logPath(page.tenant, page.log)}/entries/${index}`;
  const body = h("div", { class: "panelbody" }, h("p", { class: "faint" }, "…"));
  const around = (i, text) => (i >= 0 ? h("a", { href: page.address(page.tenant, page.log, "explore", { entry: i }), title: "the entry beside it in the log" }, text) : null);
  const aside = h("aside", { class: "panel", "aria-label": `Entry ${index}` },
    h("header", {}, h("h2", {}, "Entry ", count(index)), around(index - 1, "← before"), around(index + 1, "after →"), h("button", { type: "button", onclick: close, "aria-label": "Close" }, "✕")), body);
  load(page, path, body).catch((err) => { if (err.name !== "AbortError") fill(body, problem(err)); });
  return aside;
}

async function load(page, path, body) {
  const e = await get(path, {}, page.signal);
  const proof = h("section", {}, h("h3", {}, "Proof"), h("p", { class: "faint" }, "…"));
  const raw = h("section", {});
  fill(body, h("p", { class: "lead" }, badge(e.level), " ", e.message),
    h("dl", { class: "facts" }, [["Time", when(e.timestamp)], ["Event time", e.eventTime && when(e.eventTime)], ["Id", h("code", {}, e.id)], ["Host", e.hostname], ["Process", e.pid], ["Trace", e.traceId]].filter(([, v]) => v !== undefined && v !== "").map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])),
    e.metadata && Object.keys(e.metadata).length ? h("section", {}, h("h3", {}, "Metadata"), tree(e.metadata)) : null, proof, raw);
  const quiet = (p) => p.catch((err) => { if (err.name === "AbortError") throw err; return err; });
  const [receipt, block] = await Promise.all([quiet(get(path + "/receipt", {}, page.signal)), quiet(get(path + "/block", {}, page.signal))]);
  if (receipt instanceof Error) {
    fill(proof, h("h3", {}, "Proof"), receipt.status === 403 ? h("p", { class: "faint" }, "Your role does not see proofs.") : problem(receipt));
  } else {
    fill(proof, h("h3", {}, "Proof"), await proven(receipt, e));
  }
  fill(raw, block instanceof Error ? null : [h("h3", {}, "Chain"), h("dl", { class: "facts" }, h("dt", {}, "Hash"), h("dd", {}, short(block.hash)), h("dt", {}, "Previous"), h("dd", {}, short(block.previousHash)))],
    h("h3", {}, "Exact line"), h("pre", { class: "raw", tabindex: 0 }, receipt.line || (block.data ?? JSON.stringify(e))));
}

// proven recomputes a receipt and draws the way from the entry to the root. Where an entry is shown beside it, that must be what the
// proven line says.
export async function proven(receipt, shown) {
  let r;
  try {
    r = await checkReceipt(receipt);
    if (shown && !says(JSON.parse(receipt.line), shown)) {
      r.ok = false;
      r.faults.push("what is shown above is not what the proven line says");
    }
  } catch (err) {
    r = { ok: false, faults: [err.message] };
  }
  if (!r.ok) return h("div", { class: "verdict red", role: "alert" }, h("strong", {}, "✕ Refuted"), h("ul", {}, r.faults.map((f) => h("li", {}, f))));
  return [h("p", { class: "verdict green" }, h("strong", {}, "✓ Recomputed in this browser"), ` The SHA-256 of this line, with ${r.steps.length} hash${r.steps.length === 1 ? "" : "es"} beside it, gives the root of the checkpoint of ${count(r.checkpoint.size)} entries.`),
    path(r), h("p", { class: "faint" }, "Not checked here: the checkpoint's signatures. For that keep the receipt, and verify it with a key that you did not get from this server: ", h("code", {}, "immutable verify --proof"), "."),
    h("button", { type: "button", onclick: () => save(receipt) }, "Keep the receipt")];
}

// says compares an entry as the server tells it with the line that was proven.
function says(line, e) {
  return ["id", "timestamp", "level", "message", "hostname", "pid", "traceId", "metadata"].every((name) => JSON.stringify(line[name]) === JSON.stringify(e[name]));
}

function save(receipt) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(receipt)], { type: "application/json" }));
  h("a", { href: url, download: `receipt-${receipt.index}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// path draws the Merkle path: each line is one hash of two.
function path(r) {
  const node = (text, bytes, kind) => h("span", { class: "node " + kind, title: hex(bytes) }, h("small", {}, text), h("code", {}, hex(bytes).slice(0, 8)));
  return h("ol", { class: "merkle", "aria-label": "From the root down to the entry" },
    h("li", {}, node("root, signed", r.root, "root")),
    r.steps.slice().reverse().map((s) => h("li", {}, s.side === "left" ? [node("beside it", s.sibling, "sibling"), node("computed", s.node, "own")] : [node("computed", s.node, "own"), node("beside it", s.sibling, "sibling")])),
    h("li", {}, h("span", { class: "node leaf" }, h("small", {}, `entry ${count(r.index)}: SHA-256 of its line`))));
}

// tree shows metadata with their names; nothing in it is markup.
function tree(value) {
  if (Array.isArray(value)) return value.length ? h("ol", { class: "tree", start: 0 }, value.map((v) => h("li", {}, tree(v)))) : "[]";
  if (value && typeof value === "object") return h("dl", { class: "tree" }, Object.entries(value).map(([k, v]) => [h("dt", {}, k), h("dd", {}, tree(v))]));
  return value === null ? h("em", {}, "null") : h("span", { class: typeof value }, String(value));
}
