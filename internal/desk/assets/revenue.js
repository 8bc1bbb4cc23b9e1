// Revenue: sums by currency, plan and period, with the entries behind each number, and a comparison with an export of Stripe's.

import { h, fill, count, problem, say } from "./dom.js";
import { get, logPath, upload } from "./api.js";
import { quoted } from "./explore.js";

const groupings = { currency: "currency", plan: "plan", day: "day", week: "week", month: "month" };
const kinds = { charged: "charge", refunded: "refund", disputed: "dispute", paidOut: "payout", intent: "payment" };

// money writes a whole number of a minor unit, given as text, exactly.
export function money(text, exponent, currency) {
  const negative = text.startsWith("-"), digits = (negative ? text.slice(1) : text).padStart(exponent + 1, "0");
  const whole = digits.slice(0, digits.length - exponent).replace(/\B(?=(\d{3})+$)/g, ",");
  return (negative ? "−" : "") + whole + (exponent ? "." + digits.slice(-exponent) : "") + " " + currency.toUpperCase();
}

export async function revenue(main, page) {
  const path = logPath(page.tenant, page.log);
  const by = groupings[page.params.get("by")] ? page.params.get("by") : "month";
  const since = page.params.get("since") || "", until = page.params.get("until") || "";
  const go = (change) => { location.hash = page.address(page.tenant, page.log, "revenue", { by, since, until, ...change }); };
  const day = (name, value) => h("label", {}, name, " ", h("input", { type: "date", value: value.slice(0, 10), onchange: (e) => go({ [name]: e.target.value ? e.target.value + "T00:00:00Z" : "" }) }));
  const below = h("div", { "aria-busy": "true" }, h("p", { class: "faint" }, "…"));
  fill(main, h("h1", {}, "Revenue"),
    h("div", { class: "query" }, h("label", {}, "by ", h("select", { onchange: (e) => go({ by: e.target.value }) }, Object.entries(groupings).map(([k, v]) => h("option", { value: k, selected: k === by }, v)))),
      day("since", since), day("until", until), h("span", { class: "faint" }, "days in UTC")), below);
  try {
    const r = await get(path + "/revenue", { by, since, until }, page.signal);
    fill(below, sums(page, r, by, since, until), left(r));
  } catch (err) {
    if (err.name === "AbortError") return;
    fill(below, problem(err));
  }
  below.setAttribute("aria-busy", "false");
  if (page.who.role === "auditor" || page.who.role === "admin") main.append(comparison(page, path, since, until));
}

function sums(page, r, by, since, until) {
  if (r.sums.length === 0) {
    return h("div", { class: "card empty" }, h("h2", {}, "No payment"), h("p", {}, "No entry in this time has an amount and a currency that count. A webhook of Stripe's brings them, or an entry at level REVENUE with ", h("code", {}, "amount"), " (in the minor unit) and ", h("code", {}, "currency"), "."));
  }
  const behind = (s, part) => page.address(page.tenant, page.log, "explore", { q: [`currency:${quoted(s.currency)} (${part}) NOT outcome:failure`, by === "plan" ? (s.group ? `plan:${quoted(s.group)}` : "NOT exists:plan") : ""].filter(Boolean).join(" "), ...period(by, s.group, since, until) });
  const cell = (s, amount, n, part) => h("td", { class: "number" }, n ? h("a", { href: behind(s, part), title: `${count(n)} payment${n === 1 ? "" : "s"}: see the entries` }, money(amount, s.exponent, s.currency)) : h("span", { class: "faint" }, "—"));
  const head = by === "currency" ? "Currency" : by[0].toUpperCase() + by.slice(1);
  say(`${r.sums.length} rows`);
  return h("div", { class: "wide card", tabindex: 0, role: "region", "aria-label": "Sums" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, head), ["Charged", "Refunded", "Net", "Disputed", "Paid out"].map((t) => h("th", { scope: "col", class: "number" }, t)))),
    h("tbody", {}, r.sums.map((s) => h("tr", {}, h("th", { scope: "row" }, by === "currency" ? s.currency.toUpperCase() : s.group || "(none)"),
      cell(s, s.charged, s.charges, "stripeId:ch* OR stripeId:py* OR (NOT exists:stripeId level:REVENUE)"), cell(s, s.refunded, s.refunds, "stripeId:re* OR stripeId:pyr* OR (NOT exists:stripeId level:REVENUE)"),
      h("td", { class: "number" }, h("strong", {}, money(s.net, s.exponent, s.currency))), cell(s, s.disputed, s.disputes, "stripeId:dp* OR stripeId:du*"), cell(s, s.paidOut, s.payouts, "stripeId:po*"))))));
}

// period is the time of a group, within the time of the page.
function period(by, group, since, until) {
  if (!["day", "week", "month"].includes(by)) return { since, until };
  const from = new Date(group.length === 7 ? group + "-01" : group), to = new Date(from);
  if (by === "month") to.setUTCMonth(to.getUTCMonth() + 1);
  else to.setUTCDate(to.getUTCDate() + (by === "week" ? 7 : 1));
  const later = (a, b) => (!a || a < b ? b : a), earlier = (a, b) => (!a || a > b ? b : a);
  return { since: later(since, from.toISOString()), until: earlier(until, to.toISOString()) };
}

function left(r) {
  const list = Object.entries(r.left).sort((a, b) => b[1] - a[1]);
  return h("p", { class: "faint" }, `${count(r.entries)} entries have an amount and a currency; each payment counts once.`,
    r.oldest ? ` Entries below ${count(r.oldest)} are retired and count nothing.` : "",
    list.length ? h("details", {}, h("summary", {}, `${count(list.reduce((n, [, c]) => n + c, 0))} of them are in no sum`), h("ul", {}, list.map(([why, n]) => h("li", {}, `${count(n)}: ${why}`)))) : null);
}

function comparison(page, path, since, until) {
  const result = h("div", { "aria-live": "polite" });
  const take = async (file) => {
    fill(result, h("p", { class: "faint" }, `Comparing ${file.name}…`));
    try {
      const kind = /\.(jsonl|ndjson)$/i.test(file.name) ? "application/x-ndjson" : /\.json$/i.test(file.name) ? "application/json" : "text/csv";
      fill(result, outcome(page, file, await upload(path + "/revenue/comparison", { since, until }, file, kind)));
    } catch (err) {
      fill(result, problem(err));
    }
  };
  const input = h("input", { type: "file", accept: ".csv,.json,.jsonl,.ndjson", "aria-label": "An export of Stripe's", onchange: (e) => e.target.files[0] && take(e.target.files[0]) });
  const drop = h("div", { class: "drop", ondragover: (e) => { e.preventDefault(); drop.classList.add("over"); }, ondragleave: () => drop.classList.remove("over"),
    ondrop: (e) => { e.preventDefault(); drop.classList.remove("over"); if (e.dataTransfer.files[0]) take(e.dataTransfer.files[0]); } },
  "Drop an export of Stripe's here: a payments, balance or payout report (CSV), or objects of its API (JSON).", input);
  return h("section", {}, h("h2", {}, "Compare with Stripe"), h("p", { class: "faint" }, "Choose the same days above as in the export. The file is compared and not kept; its SHA-256 and the outcome become an entry of the log of the log."), drop, result);
}

function outcome(page, file, r) {
  const line = (x) => (x.line ? `line ${count(x.line)}` : "");
  const entry = (x) => (x.index === undefined ? "" : h("a", { href: page.address(page.tenant, page.log, "explore", { entry: x.index }) }, "entry " + count(x.index)));
  const table = (title, n, rows, heads, cells) => (n === 0 ? null : h("section", {}, h("h3", {}, `${title}: ${count(n)}`), rows.length < n ? h("p", { class: "faint" }, `The first ${count(rows.length)} are shown.`) : null,
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, rows.map((x) => h("tr", {}, cells(x).map((c) => h("td", {}, c)))))))));
  const skipped = Object.entries(r.skipped);
  return [h("p", { class: "verdict " + (r.agrees ? "green" : "red"), role: "status" }, h("strong", {}, r.agrees ? "✓ Both agree" : "✕ They differ"), ` ${count(r.matched)} matched, ${count(r.differ)} with another amount, ${count(r.notInLog)} only in the export, ${count(r.notInExport)} only in the log.`),
    h("p", { class: "faint" }, file.name, ", SHA-256 ", h("code", {}, r.exportSha256), skipped.length ? `; lines that are no payment: ${skipped.map(([why, n]) => `${count(n)} ${why}`).join(", ")}` : ""),
    table("Another amount", r.differ, r.differences, ["Payment", "In the log (minor unit)", "In the export", "Where"], (x) => [h("code", {}, x.id), `${x.amount} ${x.currency.toUpperCase()}`, `${x.exportAmount} ${x.exportCurrency.toUpperCase()}`, h("span", {}, entry(x), ", ", line(x))]),
    table("Only in the export", r.notInLog, r.missingInLog, ["Payment", "What", "Amount (minor unit)", "Where"], (x) => [h("code", {}, x.id), kinds[x.class], `${x.amount} ${x.currency.toUpperCase()}`, line(x)]),
    table("Only in the log", r.notInExport, r.missingInExport, ["Payment", "What", "Amount (minor unit)", "Where"], (x) => [h("code", {}, x.id), kinds[x.class], `${x.amount} ${x.currency.toUpperCase()}`, entry(x)])];
}
