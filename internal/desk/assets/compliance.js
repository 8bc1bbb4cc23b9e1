// Compliance: control by control, what the log proves by itself, what it supports, what a person must attest, and what it cannot
// show, with the evidence as it stands.

import { h, fill, when, problem, say } from "./dom.js";
import { get } from "./api.js";

const states = { there: ["green", "✓"], attention: ["amber", "!"], none: ["grey", "–"] };

export async function compliance(main, page) {
  const days = page.params.get("days") || "30";
  const below = h("div", { "aria-busy": "true" }, h("p", { class: "faint" }, "…"));
  fill(main, h("h1", {}, "Compliance"),
    h("div", { class: "query noprint" }, h("label", {}, "Evidence of the last ", h("select", { onchange: (e) => { location.hash = page.address(page.tenant, "-", "compliance", { days: e.target.value }); } },
      ["7", "30", "90", "365"].map((d) => h("option", { value: d, selected: d === days }, d + " days")))), h("button", { type: "button", onclick: () => window.print() }, "Print")), below);
  try {
    draw(below, page, await get(`/api/v1/tenants/${page.tenant}/compliance`, { days }, page.signal));
  } catch (err) {
    if (err.name !== "AbortError") fill(below, problem(err));
  }
  below.setAttribute("aria-busy", "false");
}

function draw(below, page, v) {
  const mark = (state) => h("span", { class: "mark " + states[state][0], title: { there: "there is evidence", attention: "somebody should look", none: "there is none" }[state] }, states[state][1]);
  const shown = (item) => (item.query ? h("a", { href: page.address(page.tenant, item.log, "explore", { q: item.query, since: v.since }) }, item.text) : item.text);
  const behind = (id) => {
    const e = v.evidence[id];
    return h("li", {}, mark(e.state), " ", h("strong", {}, e.title), e.items.length ? h("ul", {}, e.items.map((x) => h("li", {}, shown(x)))) : h("span", { class: "faint" }, " nothing to show"));
  };
  const part = (title, text) => [h("dt", {}, title), h("dd", {}, text)];
  fill(below, h("p", { class: "verdict grey" }, v.statement), h("p", { class: "faint" }, "Tenant ", h("strong", {}, v.tenant), ", made ", when(v.time), ", entries since ", when(v.since), ". The controls are paraphrased."),
    h("nav", { class: "tabs noprint", "aria-label": "Frameworks" }, v.frameworks.map((f) => h("button", { type: "button", onclick: () => document.getElementById("f-" + f.id).scrollIntoView() }, f.title))),
    v.frameworks.map((f) => h("section", { id: "f-" + f.id }, h("h2", {}, f.title), f.controls.map((c) => h("article", { class: "card control" },
      h("h3", {}, c.id), h("p", {}, c.requires),
      h("div", { class: "split2" }, h("dl", { class: "facts" }, part("Proven by the log itself", c.proves), part("Supported", c.supports), part("A person attests", c.attests), part("It cannot show", c.cannot)),
        h("ul", { class: "plain evidence" }, c.evidence.map(behind))))))));
  say(`${v.frameworks.reduce((n, f) => n + f.controls.length, 0)} controls`);
}
