// Saved views: queries with a name, shared in a tenant by those who may read the log.

import { h, fill, problem, say } from "./dom.js";
import { get, post, del } from "./api.js";

// views is a menu of the log's saved views, which it asks for when it is opened.
export function views(page) {
  const path = `/api/v1/tenants/${page.tenant}/views`;
  const list = h("div", {}, h("p", { class: "faint" }, "…")), error = h("div");
  const name = h("input", { id: "viewname", type: "text", required: true, maxlength: 80, autocomplete: "off" });
  const current = () => Object.fromEntries(["q", "span", "since", "until"].map((k) => [k, page.params.get(k) || ""]));
  const load = async () => {
    const r = await get(path, {}, page.signal);
    const own = r.views.filter((v) => v.log === page.log);
    fill(list, own.length ? h("ul", { class: "plain" }, own.map((v) => h("li", { class: "actions" }, h("a", { href: page.address(page.tenant, page.log, "explore", { q: v.query, span: v.span, since: v.since, until: v.until }), title: v.query || "all entries" }, v.name),
      v.by === page.who.id || page.who.role === "admin" ? h("button", { type: "button", "aria-label": `Delete the view ${v.name}`, onclick: () => change(() => del(`${path}/${v.id}`), "deleted") }, "✕") : null))) : h("p", { class: "faint" }, "No view of this log is saved."));
  };
  const change = async (f, done) => {
    fill(error);
    try {
      await f();
      await load();
      say(done);
    } catch (err) {
      if (err.name !== "AbortError") fill(error, problem(err));
    }
  };
  return h("details", { class: "menu", ontoggle: (e) => { if (e.target.open) change(() => {}, ""); } }, h("summary", {}, "Views"), h("div", {}, list, error,
    h("form", { onsubmit: (e) => {
      e.preventDefault();
      const c = current();
      change(async () => { await post(path, { name: name.value.trim(), log: page.log, query: c.q, span: c.span || undefined, since: c.since || undefined, until: c.until || undefined }); name.value = ""; }, "saved");
    } }, h("label", { for: "viewname" }, "Save this view as"), name, h("button", { type: "submit" }, "Save"))));
}
