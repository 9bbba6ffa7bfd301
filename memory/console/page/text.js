// Offsets of the API count characters (Unicode code points); JavaScript's strings count UTF-16 units.

import { el } from "./dom.js";

// The unit at which each of `offsets` stands, for offsets in ascending order.
export function unitsOf(text, offsets) {
  const units = [];
  let unit = 0;
  let point = 0;
  for (const offset of offsets) {
    while (point < offset && unit < text.length) {
      unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
      point += 1;
    }
    units.push(unit);
  }
  return units;
}

// `text` as nodes, with `marks` ({start, end, className, title}) marked, the shortest one where several overlap, and
// `edges` ({at, label}) shown before what they stand at.
export function marked(text, marks, edges = []) {
  const kept = marks.filter((mark) => mark.end > mark.start).sort((a, b) => a.end - a.start - (b.end - b.start));
  const cuts = [...new Set([0, ...kept.flatMap((mark) => [mark.start, mark.end]), ...edges.map((edge) => edge.at), Infinity])].sort((a, b) => a - b);
  const units = unitsOf(text, cuts);
  return cuts.slice(0, -1).flatMap((cut, i) => {
    const piece = text.slice(units[i], units[i + 1]);
    const mark = kept.find(({ start, end }) => start <= cut && cut < end);
    return [
      ...edges.filter((edge) => edge.at === cut).map((edge) => el("span", { class: "chunk-edge" }, edge.label)),
      mark ? el("mark", { class: mark.className, title: mark.title }, piece) : document.createTextNode(piece),
    ];
  });
}
