// Overview: is everything proven? One sentence and one colour for each log.

import { h, fill, badge, count, when, ago, bytes, short, problem } from "./dom.js";
import { get, logPath } from "./api.js";
import { bars } from "./chart.js";

// standing is what the newest verification says of a log, in one sentence.
export function standing(status) {
  if (!status) return { tone: "grey", mark: "–", text: "Its verifications cannot be seen here." };
  if (status.refuted || status.last === "refuted") return { tone: "red", mark: "✕", text: "Refuted: something in this log was changed. Open Verify to see what and where." };
  if (status.fileAlarms > 0) return { tone: "red", mark: "✕", text: "A file of this log was changed by somebody else. Open Verify, and run a verification." };
  switch (status.last) {
  case "proven": return { tone: "green", mark: "✓", text: `Proven: the ${count(status.lastSize - (status.lastUnread || 0))} entries that the last verification read are what was recorded.` + retired(status) };
  case "consistent": return { tone: "amber", mark: "≈", text: "Consistent: everything agrees with itself, but nothing from outside was there to compare it with." + retired(status) };
  case undefined: case "": return { tone: "grey", mark: "–", text: "Not verified yet. Open Verify to do it now." };
  default: return { tone: "amber", mark: "?", text: `The last verification could not decide: ${status.last}.` };
  }
}

// retired says what a verification could not read, so that no sentence is about more than it looked at.
function retired(status) {
  return status.lastUnread ? ` ${count(status.lastUnread)} older ones are retired: it read their hashes, not them.` : "";
}

export async function overview(main, page) {
  const cards = h("div", { class: "cards" });
  const shown = page.logs.filter((l) => l.name !== "system");
  const systems = page.logs.filter((l) => l.name === "system");
  fill(main, h("h1", {}, "Is everything proven?"), cards,
    systems.length ? [h("h2", {}, "The log of the log"), h("p", { class: "faint" }, "Who read, changed and administered what. Every read on these pages is an entry there."), h("div", { class: "cards", id: "systems" })] : null);
  if (shown.length === 0) fill(cards, h("div", { class: "card" }, h("h2", {}, "No log yet"), h("p", {}, "An administrator makes one with POST /api/v1/tenants/TENANT/logs.")));
  const alerts = await Promise.all([...new Set(page.logs.map((l) => l.tenant))].map((t) =>
    get(`/api/v1/tenants/${t}/alerts/active`, {}, page.signal).then((r) => r.alerts.map((a) => ({ tenant: t, ...a })), () => [])));
  const open = alerts.flat();
  if (open.length) {
    main.insertBefore(h("section", { class: "card red", "aria-labelledby": "alerts" }, h("h2", { id: "alerts" }, `${open.length} open alert${open.length === 1 ? "" : "s"}`),
      h("ul", {}, open.map((a) => h("li", {}, h("strong", {}, a.tenant + (a.log ? "/" + a.log : "")), " ", a.summary || a.text || a.rule || a.name)))), cards);
  }
  await Promise.all([...shown.map((l) => card(l, page).then((c) => c && cards.append(c))),
    ...systems.map((l) => card(l, page).then((c) => c && document.getElementById("systems")?.append(c)))]);
}

async function card(l, page) {
  const path = logPath(l.tenant, l.name);
  const quiet = (p) => p.catch((err) => { if (err.name === "AbortError" || err.status === 401) throw err; return null; });
  const since = new Date(Date.now() - 24 * 3600e3).toISOString();
  try {
    const [stats, runs, hours] = await Promise.all([get(path + "/stats", {}, page.signal), quiet(get(path + "/verifications", {}, page.signal)),
      quiet(get(path + "/histogram", { width: "1h", since }, page.signal))]);
    const s = standing(runs?.status);
    const behind = stats.totalEntries - (stats.checkpointSize ?? stats.totalEntries);
    return h("article", { class: "card " + s.tone },
      h("h2", {}, h("a", { href: page.address(l.tenant, l.name, "explore") }, l.tenant + " / " + l.name)),
      h("p", { class: "standing" }, h("span", { class: "mark " + s.tone, "aria-hidden": "true" }, s.mark), " ", s.text),
      hours ? bars(hours.buckets.map((b) => ({ from: new Date(b.start), n: b.count })), { from: new Date(since), to: new Date(), width: 3600e3, label: "Entries an hour, over the last day" }) : null,
      h("dl", { class: "facts" },
        fact("Entries", count(stats.totalEntries)), fact("Newest", stats.newestEntry ? h("span", {}, when(stats.newestEntry), " · " + ago(stats.newestEntry)) : "none yet"),
        fact("Verified", runs?.status?.lastTime ? ago(runs.status.lastTime) : "never"),
        fact("Signed", stats.signed ? (behind > 0 ? `${count(behind)} entries wait for the next checkpoint` : "up to the newest entry") : "this log is not signed"),
        fact("On disk", bytes(stats.fileSize)), fact("Kept", kept(l, stats)), fact("Root", stats.root ? short(stats.root) : "—")),
      h("p", { class: "levels" }, Object.entries(stats.levels || {}).filter(([, n]) => n > 0).map(([level, n]) => [
        h("a", { href: page.address(l.tenant, l.name, "explore", { q: "level:" + level }) }, badge(level), " ", count(n)), " "])));
  } catch (err) {
    if (err.name === "AbortError") return null;
    return h("article", { class: "card red" }, h("h2", {}, l.tenant + " / " + l.name), problem(err));
  }
}

const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];

export function kept(l, stats) {
  const days = l.settings?.keepDays;
  const what = !days || l.settings?.expired === "keep" ? "for ever" : `at least ${days} days`;
  return what + (stats.holds ? `, ${stats.holds} legal hold${stats.holds === 1 ? "" : "s"}` : "") + (stats.retiredEntries ? `; ${count(stats.retiredEntries)} entries retired` : "");
}
