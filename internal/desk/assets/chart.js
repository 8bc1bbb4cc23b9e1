// A bar chart of entries over time, in SVG. With onrange a stretch can be brushed with the pointer; the fields beside it do the
// same from the keyboard.

import { h, count } from "./dom.js";

const W = 600, H = 80;

// bars draws {from, n} in [from, to). width is a bar's, in milliseconds.
export function bars(rows, { from, to, width, label, onrange }) {
  const first = Math.floor(from.getTime() / width) * width, all = Math.max(1, Math.ceil((to.getTime() - first) / width));
  const most = Math.max(1, ...rows.map((r) => r.n));
  const x = (t) => ((t - first) / width) * (W / all);
  const total = rows.reduce((n, r) => n + r.n, 0);
  const brush = h("rect", { class: "brush", y: 0, height: H, width: 0 });
  const svg = h("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", class: "bars", role: "img", "aria-label": `${label}: ${count(total)} in all, at most ${count(most)} in one bar` },
    rows.filter((r) => r.n > 0).map((r) => {
      const height = Math.max(2, (r.n / most) * (H - 4));
      return h("rect", { class: "bar", x: x(r.from.getTime()), y: H - height, width: Math.max(1, W / all - 1), height }, svgTitle(`${r.from.toLocaleString()}: ${count(r.n)}`));
    }), brush);
  if (onrange) brushing(svg, brush, (a, b) => onrange(new Date(first + (a / W) * all * width), new Date(first + (b / W) * all * width)));
  return svg;
}

function svgTitle(text) {
  const t = document.createElementNS("http://www.w3.org/2000/svg", "title");
  t.textContent = text;
  return t;
}

function brushing(svg, brush, done) {
  let start = null;
  const at = (e) => { const r = svg.getBoundingClientRect(); return Math.min(W, Math.max(0, ((e.clientX - r.left) / r.width) * W)); };
  const draw = (e) => { const a = Math.min(start, at(e)), b = Math.max(start, at(e)); brush.setAttribute("x", a); brush.setAttribute("width", b - a); return [a, b]; };
  svg.addEventListener("pointerdown", (e) => { start = at(e); svg.setPointerCapture(e.pointerId); });
  svg.addEventListener("pointermove", (e) => { if (start !== null) draw(e); });
  svg.addEventListener("pointerup", (e) => {
    if (start === null) return;
    const [a, b] = draw(e);
    start = null;
    if (b - a > 4) done(a, b);
    else brush.setAttribute("width", 0);
  });
}
