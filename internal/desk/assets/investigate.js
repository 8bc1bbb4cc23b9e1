// Investigate: a person, an address or a thing, and what they did or what was done to it, in every log of the tenant that the
// person who looks may read, in the order of time.

import { h, fill, badge, count, when, problem, say } from "./dom.js";
import { get, logPath } from "./api.js";
import { bars } from "./chart.js";
import { gist, quoted } from "./explore.js";

const pageSize = 50; // entries of each log that are fetched at once
const kinds = {
  actor: { title: "Person or service", fields: ["actor.name", "actor.id", "actor.email"], example: "ann" },
  address: { title: "Address", fields: ["source.ip", "ip"], example: "203.0.113.42" },
  object: { title: "Object", fields: ["target.id", "target.name"], example: "customers" },
  words: { title: "Words", fields: [], example: "failed login" },
};
const breakdowns = [["action", "What"], ["outcome", "How it ended"], ["actor.name", "Who"], ["source.ip", "From where"], ["target.name", "To what"]];

// queryOf spells what is looked for in the query language.
export function queryOf(kind, value) {
  const fields = kinds[kind].fields;
  return fields.length ? fields.map((f) => `${f}:${quoted(value)}`).join(" OR ") : value;
}

export async function investigate(main, page) {
  const logs = page.logs.filter((l) => l.tenant === page.tenant && l.name !== "system");
  const kind = kinds[page.params.get("kind")] ? page.params.get("kind") : "actor", value = page.params.get("value") || "";
  const go = (k, v) => { location.hash = page.address(page.tenant, "-", "investigate", { kind: k, value: v }); };
  const field = h("input", { id: "value", type: "search", value, placeholder: kinds[kind].example, spellcheck: "false", autocomplete: "off" });
  const choice = h("select", { "aria-label": "What it is", onchange: (e) => { field.placeholder = kinds[e.target.value].example; } },
    Object.entries(kinds).map(([k, x]) => h("option", { value: k, selected: k === kind }, x.title)));
  const below = h("div", { "aria-busy": "true" }, h("p", { class: "faint" }, "…"));
  fill(main, h("h1", {}, "Investigate"),
    h("form", { class: "query", role: "search", onsubmit: (e) => { e.preventDefault(); go(choice.value, field.value.trim()); } },
      choice, h("label", { for: "value", class: "visually-hidden" }, "Who or what"), field, h("button", { class: "primary", type: "submit" }, "Show")), below);
  if (logs.length === 0) fill(below, h("div", { class: "card" }, h("h2", {}, "No log"), h("p", {}, "There is no log of this tenant that you may read.")));
  else if (value) await timeline(below, page, logs, kind, value, go);
  else await suggestions(below, page, logs, go);
  below.setAttribute("aria-busy", "false");
}

// quiet is a request whose failure leaves a gap: a log that cannot be read is named, and the others are shown.
async function quiet(promise, failed, log) {
  try {
    return await promise;
  } catch (err) {
    if (err.name === "AbortError" || err.status === 401) throw err;
    failed.set(log, err);
    return null;
  }
}

// merged adds up the values of a field over logs.
async function merged(page, logs, q, by, limit, failed) {
  const sums = new Map();
  const lists = await Promise.all(logs.map((l) => quiet(get(logPath(l.tenant, l.name) + "/counts", { q, by, limit: 100 }, page.signal), failed, l.name)));
  for (const list of lists) for (const row of list?.rows || []) sums.set(row.value, (sums.get(row.value) || 0) + row.count);
  return [...sums].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, limit);
}

const valueList = (rows, press) => (rows.length ? h("ul", { class: "plain values" }, rows.map(([value, n]) =>
  h("li", {}, h("button", { type: "button", onclick: () => press(value) }, h("span", { class: "value" }, value), h("span", { class: "n" }, count(n)))))) : h("p", { class: "faint" }, "none"));

async function suggestions(below, page, logs, go) {
  const failed = new Map();
  const lists = await Promise.all([["actor", "actor.name"], ["address", "source.ip"], ["object", "target.name"]].map(async ([kind, by]) => [kind, await merged(page, logs, "", by, 15, failed)]));
  fill(below, h("p", {}, "Everything about one person, address or thing, over all logs, in the order of time. Write one, or begin with the most frequent:"), gaps(failed),
    h("div", { class: "cards" }, lists.map(([kind, rows]) => h("section", { class: "card" }, h("h2", {}, kinds[kind].title), valueList(rows, (v) => go(kind, v))))));
}

function gaps(failed) {
  return [...failed].map(([log, err]) => h("div", {}, h("h2", {}, log), problem(err)));
}

async function timeline(below, page, logs, kind, value, go) {
  const q = queryOf(kind, value), failed = new Map();
  const streams = logs.map((l) => ({ log: l, rows: [], next: "" }));
  const facts = h("div", { class: "cards" }), chart = h("div", { class: "chart" }), rows = h("ol", { class: "timeline", "aria-label": "Entries, newest first" });
  const older = h("button", { type: "button", onclick: () => {
    older.disabled = true; // one at a time: the rows are in order
    more().then(() => { older.disabled = false; }, (err) => fill(foot, problem(err)));
  } }, "Older entries");
  const foot = h("p", {}, older);
  let shown = 0;
  // more takes the newest of what all logs have next, until there are pageSize more.
  const more = async () => {
    for (let n = 0; n < pageSize; n++) {
      await Promise.all(streams.filter((s) => s.rows.length === 0 && s.next !== null).map(async (s) => {
        const r = await quiet(get(logPath(s.log.tenant, s.log.name) + "/entries", { q, limit: pageSize, cursor: s.next }, page.signal), failed, s.log.name);
        s.rows = r ? r.entries : [];
        s.next = r ? r.next : null;
      }));
      const best = streams.filter((s) => s.rows.length).sort((a, b) => (a.rows[0].timestamp < b.rows[0].timestamp ? 1 : -1))[0];
      if (!best) {
        fill(foot, h("span", { class: "faint" }, shown ? "That is all." : ""));
        break;
      }
      rows.append(row(page, best.log, best.rows.shift()));
      shown++;
    }
  };
  await more();
  if (failed.size === logs.length) {
    fill(below, gaps(failed));
    return;
  }
  if (shown === 0) {
    fill(below, gaps(failed), h("div", { class: "card empty" }, h("h2", {}, "Nothing is known of it"), h("p", {}, "No entry of these logs names it: " + logs.map((l) => l.name).join(", ") + ". Look for words instead, which looks everywhere in an entry.")));
    return;
  }
  fill(below, gaps(failed), chart, facts, h("h2", {}, "What happened"), rows, foot);
  const counts = await Promise.all(logs.map(async (l) => [l, (await quiet(get(logPath(l.tenant, l.name) + "/count", { q }, page.signal), failed, l.name))?.count || 0]));
  const total = counts.reduce((n, [, c]) => n + c, 0);
  say(`${count(total)} entries`);
  facts.append(h("section", { class: "card" }, h("h2", {}, value), h("dl", { class: "facts" }, h("dt", {}, "Entries"), h("dd", {}, count(total)),
    counts.filter(([, c]) => c > 0).map(([l, c]) => [h("dt", {}, "in " + l.name), h("dd", {}, h("a", { href: page.address(l.tenant, l.name, "explore", { q }) }, count(c)))]))));
  for (const [by, title] of breakdowns) {
    const list = await merged(page, logs, q, by, 6, failed);
    if (list.length) facts.append(h("section", { class: "card" }, h("h2", {}, title), valueList(list, (v) => pressed(by, v, page, logs, q, go))));
  }
  await histogram(chart, page, logs, q, failed);
}

// pressed goes on to a person, address or thing, or to the entries with that value.
function pressed(by, value, page, logs, q, go) {
  const kind = { "actor.name": "actor", "source.ip": "address", "target.name": "object" }[by];
  if (kind) go(kind, value);
  else location.hash = page.address(page.tenant, logs[0].name, "explore", { q: `(${q}) ${by}:${quoted(value)}` });
}

function row(page, l, e) {
  return h("li", {}, h("span", { class: "time" }, when(e.eventTime || e.timestamp)), badge(e.level),
    h("a", { href: page.address(l.tenant, l.name, "explore", { entry: e.index }) }, e.message || "(no message)"), h("span", { class: "meta" }, gist(e.metadata)), h("span", { class: "faint" }, l.name + " " + count(e.index)));
}

// histogram shows the entries of all logs together, over the time in which there are any.
async function histogram(chart, page, logs, q, failed) {
  const days = await Promise.all(logs.map((l) => quiet(get(logPath(l.tenant, l.name) + "/histogram", { q, width: "24h" }, page.signal), failed, l.name)));
  const starts = days.flatMap((d) => (d?.buckets || []).filter((b) => b.count > 0).map((b) => new Date(b.start)));
  if (starts.length === 0) return;
  const from = new Date(Math.min(...starts)), to = new Date(Math.min(Date.now(), Math.max(...starts) + 86400e3));
  const width = [60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400].find((s) => (to - from) / 1000 / s <= 120) || 30 * 86400;
  const fine = await Promise.all(logs.map((l) => quiet(get(logPath(l.tenant, l.name) + "/histogram", { q, width: width + "s", since: from.toISOString() }, page.signal), failed, l.name)));
  const sums = new Map();
  for (const r of fine) for (const b of r?.buckets || []) sums.set(b.start, (sums.get(b.start) || 0) + b.count);
  fill(chart, bars([...sums].map(([start, n]) => ({ from: new Date(start), n })), { from, to, width: width * 1000, label: "Entries over time, in all logs" }));
}
