// The REST API, as the person who is signed in may use it. The session is in a cookie that scripts cannot read.

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || "HTTP " + status);
    Object.assign(this, { status, code: body.code, title: body.title, detail: body.detail, offset: body.offset });
  }
}

let signedOut = () => {};
export function onSignedOut(f) { signedOut = f; }

async function ask(method, path, { params, body, signal, text, file, kind } = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params || {})) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const url = path + (query.size ? "?" + query : "");
  let r;
  try {
    r = await fetch(url, { method, signal, headers: body === undefined && !file ? {} : { "Content-Type": kind || "application/json" }, body: file || (body === undefined ? undefined : JSON.stringify(body)) });
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new Problem(0, { title: "The server does not answer", detail: "Is it running, and is the network up? Nothing was changed by this page." });
  }
  if (!r.ok) {
    const problem = new Problem(r.status, await r.json().catch(() => ({})));
    if (r.status === 401 && path !== "/api/v1/session") signedOut();
    throw problem;
  }
  if (r.status === 204) return null;
  return text ? r.text() : r.json();
}

export const get = (path, params, signal) => ask("GET", path, { params, signal });
export const getText = (path, params) => ask("GET", path, { params, text: true });
export const post = (path, body) => ask("POST", path, { body });
export const upload = (path, params, file, kind) => ask("POST", path, { params, file, kind });
export const put = (path, body) => ask("PUT", path, { body });
export const patch = (path, body, kind = "application/merge-patch+json") => ask("PATCH", path, { body, kind });
export const del = (path, params) => ask("DELETE", path, { params });

export const logPath = (tenant, log) => `/api/v1/tenants/${tenant}/logs/${log}`;

// logs are those that the person may know of: [{tenant, ...log}].
export async function logs(who) {
  let tenants;
  if (who.tenant === null) tenants = (await get("/api/v1/tenants")).tenants.map((t) => t.name);
  else tenants = [who.tenant];
  const lists = await Promise.all(tenants.map((t) => get(`/api/v1/tenants/${t}/logs`).then((r) => r.logs.map((l) => ({ tenant: t, ...l })))));
  return lists.flat();
}
