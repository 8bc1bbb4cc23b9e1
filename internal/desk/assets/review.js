// Review: what there is to see of a day, a sample that nobody could choose, and the name of who looked.

import { h, fill, count, when, problem, say } from "./dom.js";
import { get, post } from "./api.js";

const dayOf = (d) => d.toISOString().slice(0, 10);

export async function review(main, page) {
  const path = `/api/v1/tenants/${page.tenant}/review`;
  const day = page.params.get("day") || dayOf(new Date(Date.now() - 86400e3));
  const go = (d) => { location.hash = page.address(page.tenant, "-", "review", { day: d }); };
  const step = (n) => { const d = new Date(day); d.setUTCDate(d.getUTCDate() + n); return dayOf(d); };
  const below = h("div", { "aria-busy": "true" }, h("p", { class: "faint" }, "…"));
  fill(main, h("h1", {}, "Review"),
    h("div", { class: "query" }, h("button", { type: "button", onclick: () => go(step(-1)) }, "← Day before"), h("label", {}, "Day ", h("input", { type: "date", value: day, onchange: (e) => e.target.value && go(e.target.value) })),
      h("button", { type: "button", onclick: () => go(step(1)) }, "Day after →"), h("span", { class: "faint" }, "in UTC")), below);
  try {
    draw(below, page, path, await get(path, { day }, page.signal));
  } catch (err) {
    if (err.name !== "AbortError") fill(below, problem(err));
  }
  below.setAttribute("aria-busy", "false");
}

function draw(below, page, path, v) {
  const time = { since: v.day + "T00:00:00Z", until: new Date(Date.parse(v.day) + 86400e3).toISOString() };
  const link = (f) => page.address(page.tenant, f.log, "explore", { q: f.query, ...time });
  const found = v.findings.filter((f) => f.count > 0), nothing = [...new Set(v.findings.filter((f) => f.count === 0).map((f) => f.title))].filter((t) => !found.some((f) => f.title === t));
  const sampled = v.logs.filter((l) => l.sample.length);
  fill(below,
    v.reviews.length ? v.reviews.map((r) => h("p", { class: "verdict green" }, h("strong", {}, "✓ Reviewed"), ` by ${r.reviewer}, `, when(r.time), `: ${r.note} `, h("a", { href: page.address(page.tenant, "system", "explore", { entry: r.index }) }, "the entry")))
      : h("p", { class: "verdict " + (v.over ? "amber" : "grey") }, v.over ? "≈ Nobody has signed this day yet." : "– This day is not over: it can be signed after midnight UTC."),
    v.missed.length ? h("p", {}, "Days without a review: ", v.missed.map((d) => [h("a", { href: page.address(page.tenant, "-", "review", { day: d }) }, d), " "])) : h("p", { class: "faint" }, "Each of the last 30 days has a review, or there was no log then."),
    h("h2", {}, "Findings"),
    found.length ? h("div", { class: "wide card", tabindex: 0, role: "region", "aria-label": "Findings" }, h("table", {}, h("thead", {}, h("tr", {}, ["What", "Log", "Entries"].map((t, i) => h("th", { scope: "col", class: i === 2 ? "number" : "" }, t)))),
      h("tbody", {}, found.map((f) => h("tr", {}, h("th", { scope: "row" }, f.title), h("td", {}, f.log), h("td", { class: "number" }, h("a", { href: link(f) }, count(f.count)))))))) : h("p", {}, "Nothing that is looked for happened."),
    nothing.length ? h("p", { class: "faint" }, "Looked for, and not there: " + nothing.join(", ") + ".") : null,
    h("h2", {}, "A sample"), h("p", { class: "faint" }, "Drawn by SHA-256 from the root of the first checkpoint that covers the day: nobody chooses it, and anybody can draw it again (docs/review.md)."),
    sampled.length ? h("div", { class: "cards" }, sampled.map((l) => h("section", { class: "card" }, h("h3", {}, l.log), h("p", { class: "faint" }, `of the entries ${count(l.first)} to ${count(l.end - 1)}, under the checkpoint of ${count(l.size)}`),
      h("p", { class: "actions" }, l.sample.map((i) => h("a", { href: page.address(page.tenant, l.log, "explore", { entry: i }) }, count(i))))))) : h("p", {}, v.over ? "No entry of this day is covered by a kept checkpoint yet." : "It is drawn when the day is over."),
    v.over ? signing(below, page, path, v) : null);
  say(`${found.length} findings`);
}

function signing(below, page, path, v) {
  const error = h("div");
  const reviewer = h("input", { id: "reviewer", type: "text", required: true, maxlength: 128, autocomplete: "name", value: page.who.name || "" });
  const note = h("textarea", { id: "note", rows: 4, required: true, maxlength: 4000 });
  const button = h("button", { class: "primary", type: "submit" }, v.reviews.length ? "Sign another review" : "Sign the review");
  return h("form", { class: "fields card", onsubmit: async (e) => {
    e.preventDefault();
    fill(error);
    button.disabled = true;
    try {
      draw(below, page, path, await post(path, { day: v.day, reviewer: reviewer.value.trim(), note: note.value.trim(), again: v.reviews.length > 0 }));
      say("signed");
      window.scrollTo(0, 0);
    } catch (err) {
      fill(error, problem(err));
      note.focus();
    }
    button.disabled = false;
  } }, h("h2", {}, "Sign"), h("p", { class: "faint" }, "Your name, your note, the counts, the sample and the roots above become an entry of the log of the log, which nobody takes back."), error,
  h("p", { class: "field" }, h("label", { for: "reviewer" }, "Your name"), reviewer), h("p", { class: "field" }, h("label", { for: "note" }, "What you looked at, and what came of it"), note), button);
}
