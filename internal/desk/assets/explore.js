// Explore: a query, when it happened, and the entries, newest first, as many as there are.

import { h, fill, badge, count, when, problem, say, levels } from "./dom.js";
import { get, logPath } from "./api.js";
import { bars } from "./chart.js";
import { panel } from "./entry.js";
import { views } from "./views.js";

const rowHeight = 34; // CSS pixels; app.css has the same
const pageSize = 200;
const maxRows = 20_000; // entries that are kept in the page: beyond it the list goes on from the last one
const spans = { "15m": "15 minutes", "1h": "1 hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days", "": "all time" };
const spanSeconds = { "15m": 900, "1h": 3600, "24h": 86400, "7d": 604800, "30d": 2592000 };
const words = [...levels.map((l) => "level:" + l), "since:-24h", "until:", "ip:", "actor.name:", "actor.id:", "action:", "outcome:success", "outcome:failure", "target.id:", "source.ip:", "exists:", "AND", "OR", "NOT"];
const facets = ["level", "action", "actor.name", "outcome", "source.ip", "hostname"];

export async function explore(main, page) {
  const path = logPath(page.tenant, page.log);
  const go = (change) => {
    const next = { ...Object.fromEntries(page.params), ...change };
    location.hash = page.address(page.tenant, page.log, "explore", next);
  };
  const { params, span } = range(page.params);
  const query = h("input", { id: "query", type: "search", value: page.params.get("q") || "", placeholder: "failed login ip:203.0.113.42 level:SECURITY", spellcheck: "false", autocomplete: "off", list: "words", "aria-describedby": "mistake" });
  const mistake = h("div", { id: "mistake" });
  const list = new List(page, path, params);
  const live = h("button", { type: "button", "aria-pressed": "false", onclick: () => list.live(live) }, "Live");
  const chart = h("div", { class: "chart" }), side = h("aside", { class: "facets", "aria-label": "Frequent values" });
  fill(main, h("h1", { class: "visually-hidden" }, `Explore ${page.tenant} / ${page.log}`),
    h("form", { class: "query", role: "search", onsubmit: (e) => { e.preventDefault(); go({ q: query.value.trim(), entry: "" }); } },
      h("label", { for: "query", class: "visually-hidden" }, "Query"), query, h("datalist", { id: "words" }, words.map((w) => h("option", { value: w }))),
      h("select", { "aria-label": "Time", onchange: (e) => go({ span: e.target.value, since: "", until: "" }) },
        span === "custom" ? h("option", { value: "", selected: true }, "chosen time") : null,
        Object.entries(spans).map(([v, text]) => h("option", { value: v, selected: v === span }, text))),
      h("button", { class: "primary", type: "submit" }, "Search"), live, views(page), exports(page, path, params)),
    mistake, chart,
    h("div", { class: "split" }, side, h("section", { class: "results", "aria-label": "Entries" }, list.element)));
  query.addEventListener("keydown", (e) => { if (e.key === "Escape") query.blur(); });
  keys(page, list, query);
  const failed = (err) => {
    if (err.name === "AbortError") return;
    fill(mistake, err.code === "bad-query" ? caret(params.q, err) : problem(err));
    query.setAttribute("aria-invalid", "true");
  };
  await list.more().catch(failed);
  if (page.params.get("entry")) list.open(Number(page.params.get("entry")));
  if (mistake.childNodes.length) return;
  histogram(chart, page, path, params, go).catch(failed);
  values(side, page, path, params, go);
}

// range is the stretch of time of the parameters, as the API takes it.
function range(p) {
  const params = { q: p.get("q") || "", since: p.get("since") || "", until: p.get("until") || "" };
  if (params.since || params.until) return { params, span: "custom" };
  const span = p.get("span") || "";
  if (spanSeconds[span]) params.since = new Date(Date.now() - spanSeconds[span] * 1000).toISOString();
  return { params, span };
}

// caret shows a query's mistake under its place. The offset counts bytes.
function caret(q, err) {
  const before = new TextDecoder().decode(new TextEncoder().encode(q).slice(0, err.offset ?? 0));
  return h("div", { class: "problem", role: "alert" }, h("pre", {}, q + "\n" + " ".repeat([...before].length) + "^"), h("p", {}, err.detail));
}

async function histogram(chart, page, path, params, go) {
  let from = params.since && new Date(params.since);
  const to = params.until ? new Date(params.until) : new Date();
  if (!from) {
    const stats = await get(path + "/stats", {}, page.signal);
    if (!stats.oldestEntry) return;
    from = new Date(stats.oldestEntry);
  }
  const width = [1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400].find((s) => (to - from) / 1000 / s <= 120) || 365 * 86400;
  const r = await get(path + "/histogram", { ...params, width: width + "s" }, page.signal);
  const onrange = (a, b) => go({ since: a.toISOString(), until: b.toISOString(), span: "" });
  const field = (name, value) => {
    const local = value ? new Date(value.getTime() - value.getTimezoneOffset() * 60000).toISOString().slice(0, 19) : "";
    return h("label", {}, name, " ", h("input", { type: "datetime-local", step: 1, value: local, onchange: (e) => go({ [name]: e.target.value ? new Date(e.target.value).toISOString() : "", span: "" }) }));
  };
  fill(chart, bars(r.buckets.map((b) => ({ from: new Date(b.start), n: b.count })), { from, to, width: width * 1000, label: "Entries over time", onrange }),
    h("p", { class: "chartline" }, h("strong", {}, `${count(r.count)} ${r.count === 1 ? "entry" : "entries"}`), " ",
      h("span", { class: "faint", title: "sealed: signed indexes had a part in it. verified: every entry was hashed again" }, r.source === "sealed" ? "from sealed indexes" : "from verified entries"),
      field("since", params.since ? from : null), field("until", params.until ? to : null)));
  say(`${count(r.count)} entries`);
}

function values(side, page, path, params, go) {
  fill(side, facets.map((by, i) => {
    const rows = h("div", {}, h("p", { class: "faint" }, "…"));
    let asked = false;
    const load = async () => {
      if (asked) return;
      asked = true;
      try {
        const r = await get(path + "/counts", { ...params, by, limit: 8 }, page.signal);
        fill(rows, r.rows.length ? h("ul", {}, r.rows.map((row) => h("li", {}, h("button", { type: "button", title: "only these", onclick: () => go({ q: `${params.q ? "(" + params.q + ") " : ""}${by}:${quoted(row.value)}`, entry: "" }) },
          h("span", { class: "value" }, by === "level" ? badge(row.value) : row.value), h("span", { class: "n" }, count(row.count)))))) : h("p", { class: "faint" }, "no entry has it"));
      } catch (err) {
        if (err.name !== "AbortError") fill(rows, problem(err));
      }
    };
    const d = h("details", { ontoggle: (e) => { if (e.target.open) load(); } }, h("summary", {}, by), rows);
    if (i === 0) d.open = true;
    return d;
  }));
}

// gist says who, from where and how it ended, where metadata have the common shape; else it is their JSON.
export function gist(m) {
  if (!m) return "";
  const text = (v) => (typeof v === "string" || typeof v === "number" ? String(v) : "");
  const parts = [text(m.actor?.name) || text(m.actor?.id), text(m.target?.name) || text(m.target?.id), text(m.source?.ip), m.outcome === "success" ? "" : text(m.outcome), text(m.amount) && `${text(m.amount)} ${text(m.currency)}`].filter(Boolean);
  return parts.length ? parts.join(" · ") : Object.keys(m).length ? JSON.stringify(m) : "";
}

// quoted is a value as the query language takes it whole.
export function quoted(v) {
  return /^[A-Za-z0-9_-]+$/.test(v) ? v : '"' + v.replace(/[\\"]/g, "\\$&") + '"';
}

function exports(page, path, params) {
  const link = (format, text) => h("a", { role: "menuitem", href: `${path}/export?` + new URLSearchParams({ ...Object.fromEntries(Object.entries(params).filter(([, v]) => v)), format }), download: `${page.tenant}-${page.log}.${format}` }, text);
  if (page.who.role === "reader" || page.who.role === "writer") return null;
  return h("details", { class: "menu" }, h("summary", {}, "Export"), h("div", { role: "menu" }, link("jsonl", "JSON Lines: exact lines"), link("csv", "CSV: for spreadsheets"),
    h("a", { role: "menuitem", href: `${path}/bundle?` + new URLSearchParams(Object.fromEntries(Object.entries(params).filter(([, v]) => v))), download: `${page.tenant}-${page.log}-evidence.html` }, "Evidence: verifies itself offline")));
}

// List shows entries in a window of rows: what is out of sight has no elements.
class List {
  constructor(page, path, params) {
    Object.assign(this, { page, path, params, rows: [], next: "", loading: false, at: -1, source: null, waiting: [] });
    this.space = h("div", { class: "space" });
    this.foot = h("p", { class: "faint foot" });
    this.element = h("div", { class: "list", tabindex: 0, role: "listbox", "aria-label": "Entries, newest first", onscroll: () => this.draw() }, this.space);
    this.panel = null;
    page.signal.addEventListener("abort", () => { this.source?.close(); this.panel?.remove(); });
  }

  async more() {
    if (this.loading || this.next === null || this.rows.length >= maxRows) return;
    this.loading = true;
    try {
      const r = await get(this.path + "/entries", { ...this.params, limit: pageSize, cursor: this.next }, this.page.signal);
      this.rows.push(...r.entries);
      this.next = r.next;
      this.size = r.size;
    } finally {
      this.loading = false;
    }
    if (this.rows.length === 0) {
      fill(this.space, h("div", { class: "empty" }, h("h2", {}, "No entry"), h("p", {}, this.size === 0 ? "This log has none yet. What is appended shows here." : "Nothing fits. Take a longer time or fewer words."), h("p", {}, h("a", { href: this.page.address(this.page.tenant, this.page.log, "explore") }, "Show everything"))));
      return;
    }
    this.draw();
  }

  draw() {
    const top = this.element.scrollTop, height = this.element.clientHeight || 600;
    const first = Math.max(0, Math.floor(top / rowHeight) - 10), last = Math.min(this.rows.length, Math.ceil((top + height) / rowHeight) + 10);
    this.space.style.height = this.rows.length * rowHeight + "px";
    fill(this.space, this.rows.slice(first, last).map((e, i) => this.row(e, first + i)));
    if (last + pageSize / 2 > this.rows.length) this.more().catch((err) => { if (err.name !== "AbortError") fill(this.foot, problem(err, () => this.more())); });
    if (this.rows.length >= maxRows && last === this.rows.length) {
      const until = this.rows.at(-1).timestamp;
      this.space.append(h("a", { class: "older", href: this.page.address(this.page.tenant, this.page.log, "explore", { q: this.params.q, until }) }, "older entries…"));
    }
  }

  row(e, i) {
    const r = h("div", { class: "row", role: "option", id: "row" + i, "aria-selected": i === this.at ? "true" : "false", onclick: () => { this.select(i); this.open(e.index); } },
      h("span", { class: "index" }, count(e.index)), h("span", { class: "time" }, when(e.timestamp)), badge(e.level), h("span", { class: "message" }, e.message), h("span", { class: "meta" }, gist(e.metadata)));
    r.style.top = i * rowHeight + "px";
    return r;
  }

  select(i) {
    if (!this.rows.length) return;
    this.at = Math.max(0, Math.min(this.rows.length - 1, i));
    const top = this.at * rowHeight;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    if (top + rowHeight > this.element.scrollTop + this.element.clientHeight) this.element.scrollTop = top + rowHeight - this.element.clientHeight;
    this.draw();
    this.element.setAttribute("aria-activedescendant", "row" + this.at);
    say(this.rows[this.at].level + " " + this.rows[this.at].message);
    if (this.panel) this.open(this.rows[this.at].index);
  }

  async open(index) {
    const found = this.rows.findIndex((e) => e.index === index);
    if (found >= 0 && found !== this.at) { this.at = found; this.draw(); }
    this.panel?.remove();
    this.panel = panel(this.page, index, () => this.close());
    document.body.append(this.panel);
    history.replaceState(null, "", this.link({ entry: index }));
  }

  close() {
    this.panel?.remove();
    this.panel = null;
    history.replaceState(null, "", this.link({ entry: "" }));
    this.element.focus();
  }

  link(change) {
    return this.page.address(this.page.tenant, this.page.log, "explore", { ...Object.fromEntries(this.page.params), ...change });
  }

  // live puts new entries on top as they are committed, until it is paused.
  live(button) {
    if (this.source) {
      this.source.close();
      this.source = null;
      button.setAttribute("aria-pressed", "false");
      button.textContent = "Live";
      say("paused");
      return;
    }
    const query = new URLSearchParams({ from: "end", ...(this.params.q ? { q: this.params.q } : {}) });
    this.source = new EventSource(`${this.path}/stream?${query}`);
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Pause";
    say("new entries show as they come");
    const take = () => {
      const fresh = this.waiting.splice(0);
      this.taking = false;
      if (!fresh.length) return;
      this.rows.unshift(...fresh.reverse());
      this.rows.length = Math.min(this.rows.length, maxRows);
      if (this.at >= 0) this.at += fresh.length;
      if (this.element.scrollTop > 0) this.element.scrollTop += fresh.length * rowHeight;
      this.draw();
    };
    this.source.addEventListener("entry", (e) => {
      const entry = JSON.parse(e.data);
      if (this.rows.length && entry.index <= this.rows[0].index) return; // it is here already
      this.waiting.push(entry);
      if (this.waiting.length > maxRows) this.waiting.shift();
      if (!this.taking) { this.taking = true; requestAnimationFrame(take); }
    });
    this.source.addEventListener("error", (e) => {
      if (e.data) say(JSON.parse(e.data).detail || "the stream has ended");
      if (this.source?.readyState === EventSource.CLOSED) { this.live(button); say("the stream has ended"); }
    });
  }
}

function keys(page, list, query) {
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, textarea, select, dialog")) return;
    if (e.key === "/") { e.preventDefault(); query.focus(); query.select(); }
    else if (e.key === "j" || (e.key === "ArrowDown" && e.target === list.element)) { e.preventDefault(); list.select(list.at + 1); }
    else if (e.key === "k" || (e.key === "ArrowUp" && e.target === list.element)) { e.preventDefault(); list.select(list.at - 1); }
    else if (e.key === "Enter" && e.target === list.element && list.at >= 0) { list.open(list.rows[list.at].index); }
    else if (e.key === "Escape" && list.panel) list.close();
  }, { signal: page.signal });
}
