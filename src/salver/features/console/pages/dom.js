// Elements from functions, and one tree brought to another's form so that focus, scrolling and open details stay.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "tspan", "title", "desc", "polygon"]);

/** An element: h("p", {class: "hint"}, "text", child, [more]). False and null attributes and children are left out. */
export function h(tag, attributes, ...children) {
  const element = SHAPES.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value == null) continue;
    if (name.startsWith("on")) hear(element, name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** One listener a kind of event, whose deed can be exchanged. */
function hear(element, kind, deed) {
  element.deeds ??= {};
  if (!(kind in element.deeds)) element.addEventListener(kind, (event) => element.deeds[kind]?.(event));
  element.deeds[kind] = deed;
}

/** Make `old` look like `wanted`, which is used up. What a person changed (values, open details) stays. */
export function morph(old, wanted) {
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && !(name === "open" && old.tagName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const kind of Object.keys(old.deeds ?? {})) old.deeds[kind] = null;
  for (const [kind, deed] of Object.entries(wanted.deeds ?? {})) hear(old, kind, deed);
  const before = [...old.childNodes];
  const keyed = new Map(before.filter((node) => node.dataset?.key).map((node) => [node.dataset.key, node]));
  const kept = new Set([...wanted.children].map((child) => child.dataset.key));
  for (const [key, node] of keyed) if (!kept.has(key)) node.remove(); // first, so that others need not move
  let place = old.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = child.dataset?.key;
    let found = key ? keyed.get(key) : place;
    while (!key && found?.dataset?.key) found = found.nextSibling;
    if (found && found.nodeName === child.nodeName && (!key || found.dataset.key === key)) {
      if (found !== place) old.insertBefore(found, place);
      if (found.nodeType === Node.TEXT_NODE) {
        if (found.data !== child.data) found.data = child.data;
      } else morph(found, child);
      place = found.nextSibling;
    } else old.insertBefore(child, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

/**
 * A table of rows, each a list of cells; the first cell names the row.
 * @param keys of the rows, by which each stays itself when others come before it
 */
export function table(caption, columns, rows, { empty = "Nothing yet.", hidden = false, keys = [] } = {}) {
  if (!rows.length) return h("p", { class: "hint" }, empty);
  const kinds = columns.map((column) => ({ "#": "number", "~": "wide" })[column[0]] ?? "");
  const names = columns.map((column) => column.replace(/^[#~]/, ""));
  // On a phone the rows are shown as cards, which takes their roles away from table elements: they are given explicitly.
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { role: "table" },
      h("caption", { class: hidden ? "unseen" : false }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, names.map((name, index) =>
        h("th", { scope: "col", role: "columnheader", class: kinds[index] === "number" && "number" }, name)))),
      h("tbody", { role: "rowgroup" }, rows.map((row, at) => h("tr", { role: "row", "data-key": keys[at] }, row.map((cell, index) =>
        index ? h("td", { role: "cell", class: kinds[index] || false, "data-name": names[index] }, h("div", {}, cell))
          : h("th", { scope: "row", role: "rowheader" }, cell)))))));
}

/** A card with its heading. */
export function card(heading, note, ...children) {
  return h("section", { class: "card" },
    h("header", {}, h("h2", {}, heading), note ? h("p", {}, note) : null), ...children);
}

/** The head of a page: breadcrumb, heading, a line about it, and what can be done. */
export function head({ crumb, title, about, actions }) {
  return h("div", { class: "head" },
    h("div", {},
      crumb ? h("nav", { class: "crumbs", "aria-label": "Above this page" }, h("a", { href: crumb[1] }, crumb[0])) : null,
      h("h1", { tabindex: "-1" }, title), about ? h("p", {}, about) : null),
    actions?.length ? h("div", { class: "buttons" }, actions) : null);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value, more]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, more) : null))));
}

const KINDS = {
  good: ["READY", "PROMOTED", "RUNNING", "promote", "pass", "told", "valid", "available"],
  warn: ["LOADING", "WARMING", "DRAINING", "UNLOADING", "HELD", "PAUSED", "PROPOSED", "hold", "pause", "failing", "expired", "draining", "half-open"],
  bad: ["FAILED", "ROLLED_BACK", "rollback", "fail", "given_up", "revoked", "down", "ejected", "unfit"],
};
const KIND_OF = new Map(Object.entries(KINDS).flatMap(([kind, words]) => words.map((word) => [word, kind])));

/** Whether a word of state is `good`, `warn` or `bad`; empty = none of these. */
export const kindOf = (word) => KIND_OF.get(word) ?? "";

/** A word of state, with a colour and a shape. */
export function state(word) {
  const shown = word.toLowerCase().replaceAll("_", " ");
  return h("span", { class: `state ${kindOf(word)}` }, shown);
}

// Numbers and times as the page's own language writes them, since they stand among words of it and of the server, which
// are in English: 1.5 beside 1,5 would be read as something else. Whether a day has 24 hours or twice 12 is the browser's.
const LANGUAGE = document.documentElement.lang;
const { hourCycle } = new Intl.DateTimeFormat(undefined, { hour: "numeric" }).resolvedOptions();
const timeForm = (form) => new Intl.DateTimeFormat(LANGUAGE, { ...form, hourCycle });
const compact = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 1, notation: "compact" });
const plain = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 0 });
export const count = (value) => (Math.abs(value) < 1e6 ? plain : compact).format(value);
const significant = new Map(); // by their most digits: to make one costs more than to use it
export function digits(value, most = 3) {
  if (value == null || !Number.isFinite(value)) return "–";
  if (!significant.has(most)) significant.set(most, new Intl.NumberFormat(LANGUAGE, { maximumSignificantDigits: most }));
  return significant.get(most).format(value);
}
export const percent = (share, most = 3) => `${digits(share * 100, most)} %`;
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  if (seconds < 120) return `${digits(seconds)} s`;
  if (seconds < 7200) return `${digits(seconds / 60)} min`;
  return seconds < 172800 ? `${digits(seconds / 3600)} h` : `${digits(seconds / 86400)} days`;
}
export function bytes(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) (size /= 1024), unit++;
  return `${digits(size)} ${units[unit]}`;
}
const clock = timeForm({ dateStyle: "medium", timeStyle: "short" });
const hour = timeForm({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = timeForm({ month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
export const timeOfDay = (at) => hour.format(at * 1000);
/** How moments between these are told: with their day, where there are several. */
export const timesFrom = (first, last) => (last - first < 86400 ? timeOfDay : (at) => day.format(at * 1000));
/** A text of a picture, cut off. */
export const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
/** A text that may be long; cut off for the eye alone, and whole where one points. */
export const short = (text) => (text ? h("span", { class: "short", title: text }, text) : "–");
const exact = timeForm({ dateStyle: "medium", timeStyle: "medium" });
/** A time of this place, with its year if that is another one; of UTC where one points. */
export const moment = (at, form) => {
  const then = new Date(at * 1000);
  const usual = then.getFullYear() === new Date().getFullYear() ? day : clock;
  const told = then.toISOString();
  return h("time", { datetime: told, title: told }, (form ?? usual).format(then));
};
/** To the second. */
export const instant = (at) => moment(at, exact);
