// Manage: what administrators of a tenant decide, and auditors look at. Each change is a call of the API, and an entry of the log of
// the log. What cannot be taken back asks for a name first.

import { h, fill, badge, count, when, ago, bytes, short, problem, say, levels } from "./dom.js";
import { get, post, patch, put, del, logPath } from "./api.js";
import { kept } from "./overview.js";

const sections = {
  tokens: { title: "Tokens", show: tokens }, logs: { title: "Logs and retention", show: logs }, sources: { title: "Sources", show: sources }, sinks: { title: "Sinks", show: sinks },
  alerts: { title: "Alerts", show: alerts }, keys: { title: "Keys and witnesses", show: keys }, tenants: { title: "Tenants", show: tenants, installation: true },
};

export async function manage(main, page) {
  const name = sections[page.params.get("section")] ? page.params.get("section") : "tokens";
  const below = h("div", { "aria-busy": "true" }, h("p", { class: "faint" }, "…"));
  const all = Object.entries(sections).filter(([, s]) => !s.installation || page.who.tenant === null);
  fill(main, h("h1", {}, "Manage ", page.tenant),
    h("nav", { class: "tabs", "aria-label": "What" }, all.map(([k, s]) => h("a", { href: page.address(page.tenant, "-", "manage", { section: k }), "aria-current": k === name ? "page" : false }, s.title))), below);
  const draw = async () => {
    try {
      await sections[name].show(below, { ...page, api: `/api/v1/tenants/${page.tenant}`, may: page.who.role === "admin", draw });
    } catch (err) {
      if (err.name !== "AbortError") fill(below, problem(err, draw));
    }
    below.setAttribute("aria-busy", "false");
  };
  await draw();
}

// confirmed asks before what cannot be taken back: the name must be written, and a reason where one is to be kept. It is false, or
// the reason, or true.
function confirmed(what, name, does, why) {
  return new Promise((done) => {
    let yes = false;
    const reason = why ? h("input", { id: "reason", type: "text", required: true, maxlength: 1024, autocomplete: "off" }) : null;
    const field = h("input", { id: "confirm", type: "text", autocomplete: "off", spellcheck: "false", oninput: () => { go.disabled = field.value !== name; } });
    const go = h("button", { class: "danger", type: "submit", disabled: true }, what);
    const d = h("dialog", { "aria-labelledby": "confirmtitle" }, h("h2", { id: "confirmtitle" }, what + "?"), h("p", {}, does),
      h("form", { method: "dialog", onsubmit: () => { yes = field.value === name && (reason ? reason.value : true); } }, reason ? h("p", {}, h("label", { for: "reason" }, "Reason, which is kept: "), reason) : null, h("label", { for: "confirm" }, "Write ", h("code", {}, name), " to go on:"), " ", field,
        h("p", { class: "actions" }, go, h("button", { type: "button", onclick: () => d.close() }, "Cancel"))));
    d.addEventListener("close", () => { d.remove(); done(yes); });
    document.body.append(d);
    d.showModal();
  });
}

// act is a button that does something and shows the page anew. What went wrong is shown beside it.
function act(page, text, f, danger) {
  const b = h("button", { type: "button", class: danger ? "danger" : "", onclick: async () => {
    b.disabled = true;
    b.parentElement.querySelector(".problem")?.remove();
    try {
      const told = await f();
      if (told !== false) { say(text + ": done"); await page.draw(); }
    } catch (err) {
      b.after(problem(err));
    }
    b.disabled = false;
  } }, text);
  return b;
}

// form has fields {name, label, type, options, help} and sends their values, without the empty ones. An error stands at the top.
function form(page, title, fields, send, { open = false, after } = {}) {
  const error = h("div");
  const controls = fields.map((f) => {
    const id = "f-" + title.replace(/\W+/g, "-") + "-" + f.name;
    const props = { id, name: f.name, required: f.required, "aria-describedby": f.help ? id + "-help" : false };
    const control = f.options ? h("select", props, f.options.map(([v, text]) => h("option", { value: v, selected: v === f.value }, text)))
      : f.type === "area" ? h("textarea", { ...props, rows: 12, spellcheck: "false" }, f.value || "")
        : h("input", { ...props, type: f.type || "text", value: f.value ?? "", min: f.min, autocomplete: "off", spellcheck: "false" });
    return [control, h("p", { class: "field" }, h("label", { for: id }, f.label), control, f.help ? h("span", { id: id + "-help", class: "faint" }, f.help) : null)];
  });
  const button = h("button", { class: "primary", type: "submit" }, title);
  const body = h("form", { class: "fields", onsubmit: async (e) => {
    e.preventDefault();
    fill(error);
    button.disabled = true;
    try {
      const values = {};
      controls.forEach(([c], i) => { const v = c.value.trim(); if (v !== "") values[fields[i].name] = fields[i].type === "number" ? Number(v) : v; });
      const made = await send(values);
      say(title + ": done");
      await page.draw();
      if (after) after(made);
    } catch (err) {
      fill(error, problem(err));
      controls[0]?.[0].focus();
    }
    button.disabled = false;
  } }, error, controls.map(([, p]) => p), button);
  return h("details", { class: "card", open }, h("summary", {}, title), body);
}

function table(label, heads, rows, empty) {
  if (rows.length === 0) return h("div", { class: "card empty" }, h("p", {}, empty));
  return h("div", { class: "wide card", tabindex: 0, role: "region", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((c) => h("td", {}, c)))))));
}

// once shows a secret that is not kept anywhere.
function once(below, title, secret, more) {
  const box = h("div", { class: "card green", role: "status", tabindex: -1 }, h("h2", {}, title), h("p", {}, "It is shown once. Keep it in a safe place."), h("pre", { class: "raw" }, secret), more,
    h("p", { class: "actions" }, h("button", { type: "button", onclick: () => navigator.clipboard?.writeText(secret).then(() => say("copied"), () => say("it could not be copied")) }, "Copy"), h("button", { type: "button", onclick: () => box.remove() }, "I have it")));
  below.prepend(box);
  box.focus();
}

const logOptions = (page, every) => [...(every ? [["", "every log"]] : []), ...page.logs.filter((l) => l.tenant === page.tenant && l.name !== "system").map((l) => [l.name, l.name])];

async function tokens(below, page) {
  const { tokens: list } = await get(page.api + "/tokens", {}, page.signal);
  const state = (t) => (t.revoked ? h("span", { class: "faint" }, "revoked ", ago(t.revoked)) : t.expires && new Date(t.expires) < new Date() ? h("span", { class: "faint" }, "expired ", ago(t.expires)) : h("span", { class: "verdictword green" }, "✓ valid"));
  fill(below, table("Tokens", ["Name", "Role", "Logs", "Levels", "Made", "Expires", "State", "Actions"], list.map((t) => [t.name, t.role, t.logs?.join(", ") || "every", t.levels?.length ? t.levels.map((l) => [badge(l), " "]) : "every", h("span", {}, when(t.created), " by ", t.createdBy), t.expires ? when(t.expires) : "never", state(t),
    page.may && !t.revoked ? act(page, "Revoke", async () => (await confirmed("Revoke the token", t.name || t.id, "Whoever uses it is refused at once.")) && del(`${page.api}/tokens/${t.id}`), true) : ""]), "This tenant has no tokens."),
  page.may ? form(page, "Make a token", [
    { name: "name", label: "Name", required: true, help: "for people: who or what uses it" },
    { name: "role", label: "Role", options: [["writer", "writer: appends, reads nothing"], ["reader", "reader: reads"], ["auditor", "auditor: reads, proofs, exports, reports"], ["admin", "admin: everything"]] },
    { name: "log", label: "Log", options: logOptions(page, true) }, { name: "level", label: "Level", options: [["", "every level"], ...levels.map((l) => [l, l])] },
    { name: "days", label: "Days until it expires", type: "number", min: 1, help: "empty: never" },
  ], (v) => post(page.api + "/tokens", { name: v.name, role: v.role, logs: v.log ? [v.log] : undefined, levels: v.level ? [v.level] : undefined, expires: v.days ? new Date(Date.now() + v.days * 86400e3).toISOString() : undefined }),
  { after: (t) => once(below, `The token ${t.name}`, t.token) }) : null);
}

async function logs(below, page) {
  const { logs: list } = await get(page.api + "/logs", {}, page.signal);
  const cards = await Promise.all(list.map(async (l) => {
    const path = logPath(page.tenant, l.name);
    const [stats, holds, retired] = await Promise.all([get(path + "/stats", {}, page.signal), get(path + "/holds", {}, page.signal), get(path + "/retired", {}, page.signal)]);
    const s = l.settings;
    return h("section", { class: "card", "aria-label": l.name }, h("h2", {}, l.name), l.title ? h("p", {}, l.title) : null, l.error ? h("div", { class: "problem" }, l.error) : null,
      h("dl", { class: "facts" }, [["Name in checkpoints", h("code", {}, l.origin)], ["Entries", count(stats.totalEntries)], ["On disk", bytes(stats.fileSize)], ["Kept", kept(l, stats)],
        ["Retired", retired.retired.length ? `${retired.retired.length} segments, up to entry ${count(retired.retired.at(-1).end)}` : "nothing"], ["Verified", `open part ${s.verify.open || "never"}, all ${s.verify.full || "never"} (cron, UTC)`]].map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])),
      holds.holds.length ? [h("h3", {}, "Legal holds: nothing is retired"), h("ul", {}, holds.holds.map((x) => h("li", {}, h("strong", {}, x.id), " ", x.reason, h("span", { class: "faint" }, " since ", when(x.since), " by ", x.by), " ",
        page.may ? act(page, "Release", async () => {
          const reason = await confirmed("Release the hold", x.id, "Expired segments may be retired again.", true);
          return reason && del(`${path}/holds/${x.id}`, { reason });
        }) : null)))] : null,
      page.may ? [form(page, `Retention of ${l.name}`, [
        { name: "keepDays", label: "Keep entries at least so many days", type: "number", min: 0, value: s.keepDays || "", help: "empty or 0: for ever" },
        { name: "expired", label: "After that", value: s.expired, options: [["keep", "keep them"], ["move", "move whole segments to the cold directory"], ["delete", "delete whole segments"]] },
      ], async (v) => {
        if (v.expired === "delete" && s.expired !== "delete" && !await confirmed("Delete expired segments", l.name, "Entries older than that are deleted for good. Their hashes stay, so that older proofs verify.")) throw Object.assign(new Error("Nothing was changed."), { title: "Not confirmed" });
        return patch(path, { keepDays: v.keepDays || 0, expired: v.expired });
      }), form(page, `Set a legal hold on ${l.name}`, [{ name: "id", label: "Name of the hold", required: true, help: "letters, digits, . _ -" }, { name: "reason", label: "Reason", required: true }], (v) => put(`${path}/holds/${encodeURIComponent(v.id)}`, { reason: v.reason || "" }))] : null);
  }));
  fill(below, h("div", { class: "cards" }, cards), page.may ? form(page, "Make a log", [{ name: "name", label: "Name", required: true, help: "lower-case letters, digits, -; it never changes" }, { name: "title", label: "Title" }], (v) => post(page.api + "/logs", v)) : null);
}

async function sources(below, page) {
  const { sources: list, traffic } = await get(page.api + "/sources", {}, page.signal);
  const seen = (id) => traffic.find((t) => t.name === id);
  const refused = (t) => Object.entries(t?.rejected || {}).map(([why, n]) => `${count(n)} ${why}`).join(", ") || "none";
  const last = (t) => (t?.lastSeen ? h("span", {}, when(t.lastSeen), " · ", ago(t.lastSeen)) : "not since the start");
  const others = traffic.filter((t) => !list.some((s) => s.id === t.name));
  fill(below, table("Webhooks", ["Provider", "Log", "Address", "Accepted", "Refused", "Last seen", "State", "Actions"], list.map((s) => { const t = seen(s.id); return [h("span", {}, s.kind, s.title ? " · " + s.title : ""), s.log, h("code", {}, s.path), count(t?.accepted || 0), refused(t), last(t), s.disabled ? "off" : s.unconfirmed ? "waits for the provider's handshake" : h("span", { class: "verdictword green" }, "✓ on"),
    page.may ? h("span", { class: "actions" }, act(page, s.disabled ? "Switch on" : "Switch off", () => patch(`${page.api}/sources/${s.id}`, { disabled: !s.disabled }, "application/json")), act(page, "Remove", async () => (await confirmed("Remove the source", s.kind, "Its deliveries are refused from then on.")) && del(`${page.api}/sources/${s.id}`), true)) : ""]; }), "No webhook may send here yet. Programs with tokens, collectors and receivers are listed below when they send."),
  others.length ? [h("h2", {}, "Others that sent since the start"), table("Others", ["Protocol", "Log", "Who", "Accepted", "Refused", "Last seen"], others.map((t) => [t.kind, t.log, t.name, count(t.accepted), refused(t), last(t)]))] : null,
  page.may ? form(page, "Let a webhook in", [{ name: "kind", label: "Provider", options: [["github", "GitHub"], ["stripe", "Stripe"], ["linear", "Linear"], ["notion", "Notion"], ["standard", "Standard Webhooks"]] }, { name: "log", label: "Log", options: logOptions(page) }, { name: "title", label: "Title" }, { name: "secret", label: "The provider's secret", help: "empty: one is made here, where the provider takes it" }],
    (v) => post(page.api + "/sources", v), { after: (s) => s.secret && once(below, `The secret of ${s.kind}`, s.secret, h("p", {}, "Send to ", h("code", {}, location.origin + s.path))) }) : null);
}

async function sinks(below, page) {
  const { sinks: list } = await get(page.api + "/sinks", {}, page.signal);
  const at = (s) => `${page.api}/sinks/${s.name}`;
  fill(below, table("Sinks", ["Name", "Log", "Type", "State", "Behind", "Delivered", "Dead letters", "Actions"], list.map((s) => [s.name, s.log, `${s.type}, ${s.format || "json"}`, h("span", {}, s.status.state, s.status.error ? h("span", { class: "faint" }, " ", s.status.error) : ""), `${count(s.status.lag)} entries`, count(s.status.delivered), count(s.status.deadLetters),
    page.may ? h("span", { class: "actions" }, act(page, s.paused ? "Resume" : "Pause", () => post(`${at(s)}/${s.paused ? "resume" : "pause"}`)), s.status.deadLetters ? act(page, "Try dead letters again", () => post(at(s) + "/retry", {})) : null, act(page, "Remove", async () => (await confirmed("Remove the sink", s.name, "Where it stood is forgotten.")) && del(at(s)), true)) : ""]), "Entries go nowhere else yet."),
  page.may ? form(page, "Make a sink", [{ name: "name", label: "Name", required: true, help: "lower-case letters, digits, -" }, { name: "log", label: "Log", options: logOptions(page) }, { name: "type", label: "Type", options: [["webhook", "webhook"], ["otlp", "OpenTelemetry over HTTP"], ["syslog", "syslog over TLS"], ["file", "files of the service"]] },
    { name: "url", label: "URL", type: "url", help: "webhook, OpenTelemetry" }, { name: "address", label: "Address", help: "syslog: host:port" }, { name: "format", label: "Format", options: [["json", "JSON"], ["ocsf", "OCSF 1.9"], ["ecs", "ECS"]] }, { name: "query", label: "Only entries that match", help: "a query; empty: all" }], (v) => post(page.api + "/sinks", v)) : null);
}

async function alerts(below, page) {
  const [{ alerts: open }, rules] = await Promise.all([get(page.api + "/alerts/active", {}, page.signal), get(page.api + "/alerts", {}, page.signal)]);
  fill(below, h("h2", {}, "Open"), table("Open alerts", ["What", "Log", "Severity", "Since", "Told"], open.map((a) => [a.summary, a.log || "", a.severity, when(a.since), a.sent ? when(a.sent) : "not yet"]), "No alert is open."),
    h("h2", {}, "Who is told, and of what"), h("p", {}, "Receivers (", h("code", {}, "sinks"), "), saved queries with a threshold and a window (", h("code", {}, "queries"), "), and ", h("code", {}, "limits"), ", as docs/alerts.md describes them."),
    page.may ? form(page, "Change the rules", [{ name: "rules", label: "Rules (JSON)", type: "area", value: JSON.stringify(rules, null, 2) }], (v) => {
      let parsed;
      try { parsed = JSON.parse(v.rules || ""); } catch (err) { throw Object.assign(err, { title: "That is no JSON", detail: err.message }); }
      return put(page.api + "/alerts", parsed);
    }, { open: true }) : h("pre", { class: "raw", tabindex: 0 }, JSON.stringify(rules, null, 2)),
    page.may && rules.sinks?.length ? h("p", { class: "actions" }, rules.sinks.map((s) => act(page, "Send a test to " + s.name, async () => { const r = await post(page.api + "/alerts/test", { sink: s.name }); if (!r.delivered) throw Object.assign(new Error(r.error), { title: "It did not arrive" }); }))) : null);
}

async function keys(below, page) {
  const cards = await Promise.all(page.logs.filter((l) => l.tenant === page.tenant).map(async (l) => {
    const path = logPath(l.tenant, l.name);
    const [stats, k] = await Promise.all([get(path + "/stats", {}, page.signal), get(path + "/keys", {}, page.signal)]);
    const w = stats.witnessing;
    return h("section", { class: "card", "aria-label": l.name }, h("h2", {}, l.name),
      h("dl", { class: "facts" }, h("dt", {}, "Epoch"), h("dd", {}, stats.signed ? h("span", {}, `${stats.epoch ?? 0}, since `, when(stats.epochBegan)) : "this log is not signed"), h("dt", {}, "Signed"), h("dd", {}, `${count(stats.checkpointSize || 0)} of ${count(stats.totalEntries)} entries`),
        h("dt", {}, "Keys it began with"), h("dd", {}, k.keys.map((x) => h("div", {}, short(x)))), h("dt", {}, "Keys now"), h("dd", {}, (k.current || []).map((x) => h("div", {}, short(x))))),
      h("h3", {}, "Witnesses"), w ? [h("p", { class: "verdict " + (w.satisfied ? "green" : "amber") }, w.satisfied ? "✓ The newest checkpoint has its quorum." : "≈ The newest checkpoint lacks its quorum.", w.quorum ? " " + w.quorum : ""),
        h("ul", {}, w.witnesses.map((x) => h("li", {}, h("strong", {}, x.name), ` ${count(x.size)} entries `, x.time ? h("span", {}, "· ", ago(x.time)) : "", x.error ? h("span", { class: "faint" }, " ", x.error) : "")))] : h("p", { class: "faint" }, "None: the policy file of the service names none, so this log's word is its keys' alone."),
      page.may ? h("p", { class: "actions" }, act(page, "Replace the keys now", async () => (await confirmed("Replace the keys", l.name, "The keys that sign now are destroyed after they have signed the next ones.")) && post(path + "/rotate-keys"))) : null);
  }));
  fill(below, h("p", {}, "Give the keys that a log began with to whoever shall verify it, by another way than this server."), h("div", { class: "cards" }, cards));
}

async function tenants(below, page) {
  const { tenants: list } = await get("/api/v1/tenants", {}, page.signal);
  fill(below, table("Tenants", ["Name", "Title", "State", "Actions"], list.map((t) => [h("a", { href: page.address(t.name, "-", "manage", { section: "tokens" }) }, t.name), t.title || "", t.error ? h("span", { class: "verdictword red" }, "✕ ", t.error) : t.settings.suspended ? h("span", { class: "verdictword amber" }, "suspended") : h("span", { class: "verdictword green" }, "✓ open"),
    page.may && t.name !== "system" ? act(page, t.settings.suspended ? "Open again" : "Suspend", async () => (t.settings.suspended || await confirmed("Suspend the tenant", t.name, "All of its principals are refused, appends too.")) && patch(`/api/v1/tenants/${t.name}`, { suspended: !t.settings.suspended }), !t.settings.suspended) : ""]), "There is no tenant."),
  page.may ? form(page, "Make a tenant", [{ name: "name", label: "Name", required: true, help: "lower-case letters, digits, -; it never changes" }, { name: "title", label: "Title" }], (v) => post("/api/v1/tenants", v)) : null);
}
