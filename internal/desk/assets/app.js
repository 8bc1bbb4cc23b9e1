// The frame of every page: who is signed in, which log is looked at, and which page shows it. The address after # says all of
// that, so that every view has a link of its own; what is after # never reaches a server's or proxy's log.

import { h, fill, problem, say } from "./dom.js";
import { get, post, del, logs, onSignedOut } from "./api.js";
import { overview } from "./overview.js";
import { explore } from "./explore.js";
import { verify } from "./verify.js";
import { investigate } from "./investigate.js";
import { revenue } from "./revenue.js";
import { manage } from "./manage.js";
import { review } from "./review.js";
import { compliance } from "./compliance.js";

const top = document.getElementById("top");
const main = document.getElementById("main");
let who = null; // null: nobody is signed in
let leave = () => {}; // ends what the page shown now has going on

const pages = {
  explore: { title: "Explore", show: explore },
  verify: { title: "Verify", show: verify },
  revenue: { title: "Revenue", show: revenue },
};

// Pages of a tenant, over all of its logs. Their addresses have "-" for the log, which is no log's name.
const tenantPages = {
  investigate: { title: "Investigate", show: investigate },
  review: { title: "Review", show: review, roles: ["auditor", "admin"] },
  compliance: { title: "Compliance", show: compliance, roles: ["auditor", "admin"] },
  manage: { title: "Manage", show: manage, roles: ["auditor", "admin"] },
};

// parse reads #/tenant/log/page?parameters.
function parse() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [tenant, log, page] = path.split("/");
  return { tenant, log, page: page || (log ? "explore" : ""), params: new URLSearchParams(query || "") };
}

export function address(tenant, log, page, params) {
  const query = new URLSearchParams(Object.entries(params || {}).filter(([, v]) => v !== "" && v !== undefined && v !== null));
  return `#/${tenant}/${log}/${page}${query.size ? "?" + query : ""}`;
}

function frame(at, list) {
  const current = (is) => (is ? "page" : false);
  const nav = [h("a", { href: "#/", "aria-current": current(!at.log) }, "Overview")];
  if (at.log && at.log !== "-") {
    for (const [name, p] of Object.entries(pages)) {
      nav.push(h("a", { href: address(at.tenant, at.log, name), "aria-current": current(at.page === name) }, p.title));
    }
  }
  const tenant = at.tenant || who.tenant || list[0]?.tenant;
  if (tenant) {
    for (const [name, p] of Object.entries(tenantPages).filter(([, p]) => !p.roles || p.roles.includes(who.role))) {
      nav.push(h("a", { href: address(tenant, "-", name), "aria-current": current(at.log === "-" && at.page === name) }, p.title));
    }
  }
  const choice = h("select", { "aria-label": "Log", onchange: (e) => { if (e.target.value) location.hash = `#/${e.target.value}/${pages[at.page] ? at.page : "explore"}`; } },
    h("option", { value: "" }, "all logs"),
    list.map((l) => h("option", { value: l.tenant + "/" + l.name, selected: l.tenant === at.tenant && l.name === at.log }, l.tenant + " / " + l.name)));
  fill(top,
    h("a", { class: "brand", href: "#/" }, h("img", { src: "/desk/icon.svg", alt: "", width: 24, height: 24 }), "Immutable"),
    choice, h("nav", { "aria-label": "Pages" }, nav),
    h("div", { class: "who" }, h("span", { title: who.id }, who.name || who.id), " ", h("span", { class: "faint" }, who.role),
      h("button", { type: "button", onclick: signOut }, "Sign out")),
    list.some((l) => l.origin && l.origin.startsWith("demo-")) ? h("p", { class: "demo" }, "Demonstration data: nobody lived this week. Logs whose name begins with “demo-” are made up.") : null);
}

async function signOut() {
  await del("/api/v1/session").catch(() => {});
  who = null;
  location.hash = "";
  signIn();
}

function signIn(note) {
  leave();
  leave = () => {};
  fill(top, h("span", { class: "brand" }, h("img", { src: "/desk/icon.svg", alt: "", width: 24, height: 24 }), "Immutable"));
  document.title = "Sign in · Immutable";
  const error = h("div");
  const field = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const form = h("form", { class: "card signin", onsubmit: async (e) => {
    e.preventDefault();
    fill(error);
    try {
      await post("/api/v1/session", { token: field.value.trim() });
      field.value = "";
      await start();
    } catch (err) {
      fill(error, problem(err.status === 401 ? { title: "That token is not valid", detail: "It may have expired or been revoked. An administrator makes new ones: immutable tokens, or the API." } : err));
      field.focus();
    }
  } }, h("h1", {}, "Sign in"), note ? h("p", {}, note) : null,
    h("input", { type: "text", name: "username", value: "API token", autocomplete: "username", hidden: true }), // for password managers
    h("label", { for: "token" }, "API token"), field,
    h("p", { class: "faint" }, "The first administrator's token was printed when the service first started."), error,
    h("button", { class: "primary", type: "submit" }, "Sign in"));
  fill(main, form);
  field.focus();
}

onSignedOut(() => { if (who) { who = null; signIn("Your session has ended. Sign in again to go on where you were."); } });

async function show() {
  if (!who) return;
  const at = parse();
  leave();
  leave = () => {};
  const ended = new AbortController();
  leave = () => ended.abort();
  try {
    const list = await logs(who);
    if (ended.signal.aborted) return;
    frame(at, list);
    const page = at.log === "-" ? tenantPages[at.page] : at.log ? pages[at.page] : { title: "Overview", show: overview };
    if (!page || (at.log && !list.some((l) => l.tenant === at.tenant && (at.log === "-" || l.name === at.log)))) {
      fill(main, h("div", { class: "card" }, h("h1", {}, "There is nothing here"), h("p", {}, "There is no such page, or you may not know of it."), h("p", {}, h("a", { href: "#/" }, "To the overview"))));
      return;
    }
    document.title = `${page.title}${at.log === "-" ? " · " + at.tenant : at.log ? " · " + at.tenant + "/" + at.log : ""} · Immutable`;
    await page.show(main, { ...at, who, logs: list, signal: ended.signal, address });
  } catch (err) {
    if (err.name === "AbortError" || !who) return;
    fill(main, problem(err, show));
  }
}

async function start() {
  try {
    who = (await get("/api/v1/session")).principal;
  } catch (err) {
    fill(main, problem(err, start));
    return;
  }
  if (!who) return signIn();
  await show();
}

function help() {
  const keys = [["/", "write a query"], ["j, k", "the next or previous entry"], ["Enter", "open the entry"], ["Esc", "close it"], ["g o", "overview"], ["g e", "explore"], ["g v", "verify"], ["g i", "investigate"], ["?", "this list"]];
  const d = h("dialog", { "aria-labelledby": "keys" }, h("h2", { id: "keys" }, "Keys"),
    h("dl", { class: "keys" }, keys.map(([k, what]) => [h("dt", {}, k.split(" ").map((x) => h("kbd", {}, x))), h("dd", {}, what)])),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")));
  d.addEventListener("close", () => d.remove());
  document.body.append(d);
  d.showModal();
}

let pending = "";
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, textarea, select, dialog") || !who) return;
  const at = parse();
  if (pending === "g") {
    pending = "";
    if (e.key === "o") location.hash = "#/";
    else if (at.tenant && e.key === "i") location.hash = address(at.tenant, "-", "investigate");
    else if (at.log === "-") return;
    else if (at.log && e.key === "e") location.hash = address(at.tenant, at.log, "explore");
    else if (at.log && e.key === "v") location.hash = address(at.tenant, at.log, "verify");
    return;
  }
  if (e.key === "g") pending = "g";
  else if (e.key === "?") help();
});

window.addEventListener("hashchange", () => { show().then(() => say(document.title)); });
start();
