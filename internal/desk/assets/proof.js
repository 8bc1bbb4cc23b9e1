// RFC 6962 in the browser: what the server says of an entry is computed again here, with the browser's own SHA-256.

const utf8 = new TextEncoder();

export const hex = (b) => Array.from(b, (x) => x.toString(16).padStart(2, "0")).join("");
export const fromBase64 = (s) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
const equal = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

async function sha256(...parts) {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) { all.set(p, at); at += p.length; }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", all));
}

export const leafHash = (line) => sha256(Uint8Array.of(0), utf8.encode(line));
const nodeHash = (left, right) => sha256(Uint8Array.of(1), left, right);

// parseProof reads a c2sp.org/tlog-proof@v1: the index, the hashes and the checkpoint.
export function parseProof(text) {
  const cut = text.indexOf("\n\n");
  const head = text.slice(0, cut).split("\n");
  if (cut < 0 || head[0] !== "c2sp.org/tlog-proof@v1") throw new Error("this is no tlog-proof");
  const rest = head.slice(1).filter((l) => !l.startsWith("extra "));
  const index = /^index (0|[1-9]\d{0,15})$/.exec(rest[0]);
  if (!index) throw new Error("the proof names no index");
  const path = rest.slice(1).map(fromBase64);
  if (path.some((p) => p.length !== 32) || path.length > 63) throw new Error("the proof's hashes cannot be read");
  return { index: Number(index[1]), path, checkpoint: parseCheckpoint(text.slice(cut + 2)) };
}

// parseCheckpoint reads the text of a checkpoint; signatures are not looked at here.
export function parseCheckpoint(note) {
  const [origin, size, root] = note.split("\n");
  if (!/^(0|[1-9]\d{0,15})$/.test(size || "")) throw new Error("the checkpoint has no size");
  return { origin, size: Number(size), root: fromBase64(root), note };
}

// inclusion goes from a leaf to the root of size entries, and returns the steps that a drawing shows. It throws where the
// path cannot be one of that index and size.
export async function inclusion(leaf, index, size, path) {
  if (!(index < size)) throw new Error("the index is not below the size");
  const steps = [];
  let fn = index, sn = size - 1, r = leaf;
  for (const p of path) {
    if (sn === 0) throw new Error("the proof has too many hashes");
    const before = r;
    if (fn % 2 === 1 || fn === sn) {
      r = await nodeHash(p, r);
      steps.push({ side: "left", sibling: p, node: before, parent: r });
      while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
    } else {
      r = await nodeHash(r, p);
      steps.push({ side: "right", sibling: p, node: before, parent: r });
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  if (sn !== 0) throw new Error("the proof has too few hashes");
  return { root: r, steps };
}

// consistency says whether the log of size n with root b begins with that of size m with root a.
export async function consistency(m, a, n, b, path) {
  if (m > n) throw new Error("the older log is the larger one");
  if (m === n) return path.length === 0 && equal(a, b);
  if (m === 0) return path.length === 0;
  const list = path.slice();
  let odd = m;
  while (odd % 2 === 0) odd /= 2;
  if (odd === 1) list.unshift(a); // m is a power of two: its root is a node of the larger tree
  if (list.length === 0) return false;
  let fn = m - 1, sn = n - 1;
  while (fn % 2 === 1) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
  let fr = list[0], sr = list[0];
  for (const c of list.slice(1)) {
    if (sn === 0) return false;
    if (fn % 2 === 1 || fn === sn) {
      fr = await nodeHash(c, fr);
      sr = await nodeHash(c, sr);
      while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
    } else {
      sr = await nodeHash(sr, c);
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  return sn === 0 && equal(fr, a) && equal(sr, b);
}

// checkReceipt recomputes everything of a receipt that needs no key: its line, its leaf, its path, its root.
export async function checkReceipt(receipt) {
  const p = parseProof(receipt.proof);
  const leaf = await leafHash(receipt.line);
  const { root, steps } = await inclusion(leaf, p.index, p.checkpoint.size, p.path);
  const faults = [];
  if (p.index !== receipt.index) faults.push(`the proof is of entry ${p.index}, the receipt of entry ${receipt.index}`);
  if (p.checkpoint.origin !== receipt.origin) faults.push(`the checkpoint is of ${p.checkpoint.origin}, the receipt of ${receipt.origin}`);
  if (hex(leaf) !== receipt.leaf) faults.push("the line does not have the leaf hash that the receipt names");
  if (!equal(root, p.checkpoint.root)) faults.push("the path leads to another root than the checkpoint's");
  return { ok: faults.length === 0, faults, leaf, steps, root, checkpoint: p.checkpoint, index: p.index };
}
