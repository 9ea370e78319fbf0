// A line chart for eyes, its table for everybody else. Series differ in dash as well as in colour.
import { digits, h, table } from "./dom.js";

const HEIGHT = 220;
const EDGE = { left: 52, right: 16, top: 14, bottom: 28 };
const TABLE_ROWS = 30;
/** How a series is drawn: those beyond the eighth begin anew, and are told apart by the table alone. */
const look = (index) => `s${(index % 8) + 1}`;

/** Pixels that a chart has, so that its letters are as large as the page's. */
function room(span) {
  const whole = document.getElementById("main").clientWidth;
  const page = whole - 2 * Math.min(40, Math.max(16, whole * 0.04));
  const columns = span === 1 && page >= 792 ? 2 : 1;
  return Math.max(240, Math.round((page - (columns - 1) * 24) / columns - 42));
}

function ticks(low, high, about) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step + 1e-9) + 1 }, (_, index) => first + index * step);
}

/**
 * @param name of the chart; its heading for screen readers
 * @param about one sentence that tells what is to be seen in it now
 * @param series [{name, points: [[x, y | null], …], band?: [[x, low, high], …]}]
 * @param limits [{name, at, kind: "pass" | "fail"}]; marks [{name, at}] across time
 * @param span columns of the page that it takes
 * @param across (x) => text of the horizontal axis; `up`: (y) => text of the vertical one
 */
export function chart({ key, name, about, series, limits = [], marks = [], across, up = digits, floor = null, most = null, span = 1 }) {
  const WIDTH = room(span);
  const drawn = series.filter((one) => one.points.length);
  const xs = drawn.flatMap((one) => one.points.map(([x]) => x));
  if (new Set(xs).size < 2) return h("figure", { class: "chart" }, h("figcaption", { class: "hint" }, `${name}: waiting for a second point.`));
  const clip = (y) => (most == null ? y : Math.min(y, most));
  const ys = drawn.flatMap((one) => [
    ...one.points.map(([, y]) => y), ...(one.band ?? []).flatMap(([, low, top]) => [low, top])])
    .filter((y) => y != null && Number.isFinite(y)).map(clip).concat(limits.map((limit) => limit.at));
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  let low = Math.min(...ys, floor ?? Infinity);
  let high = Math.max(...ys, floor ?? -Infinity);
  if (high - low < 1e-9) high = low + 1;
  const air = (high - low) * 0.08;
  high += air;
  if (floor == null || low < floor) low -= air;
  const x = (value) => EDGE.left + ((value - left) / (right - left || 1)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((clip(value) - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const tell = (chosen) => (event) => {
    const figure = event.currentTarget.closest("figure");
    event.currentTarget.pointed = event.type === "pointermove" ? event.clientX : null;
    drawn.forEach((one, index) => {
      figure.querySelector(`[data-last="${index}"]`).textContent = chosen(one);
    });
  };
  const last = (one) => `${up(one.points.findLast(([, value]) => value != null)?.[1])}`;
  const under = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const part = (((event.clientX - box.left) / box.width) * WIDTH - EDGE.left) / (WIDTH - EDGE.left - EDGE.right);
    const here = left + Math.max(0, Math.min(1, part)) * (right - left);
    const cursor = event.currentTarget.querySelector(".cursor");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(here));
    cursor.setAttribute("visibility", "visible");
    tell((one) => {
      const near = one.points.reduce((best, point) => (Math.abs(point[0] - here) < Math.abs(best[0] - here) ? point : best));
      return `${near[1] == null ? "–" : up(near[1])} at ${across(near[0])}`;
    })(event);
  };
  const away = (event) => {
    event.currentTarget.querySelector(".cursor").setAttribute("visibility", "hidden");
    tell(last)(event);
  };
  const svg = h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${name}. ${about}`, onpointermove: under, onpointerleave: away },
    ticks(low, high, 4).map((value) => [
      h("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      h("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, up(value))]),
    (WIDTH < 420 ? [0, 1] : WIDTH < 700 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]).map((part) => h("text", {
      x: x(left + part * (right - left)), y: HEIGHT - 8,
      "text-anchor": part === 0 ? "start" : part === 1 ? "end" : "middle" }, across(left + part * (right - left)))),
    h("line", { class: "axis", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: HEIGHT - EDGE.bottom, y2: HEIGHT - EDGE.bottom }),
    marks.map((mark) => [
      h("line", { class: "mark", x1: x(mark.at), x2: x(mark.at), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      h("text", { x: x(mark.at) + 4, y: EDGE.top + 4 }, mark.name)]),
    drawn.map((one, index) => one.band?.length ? h("path", { class: `band ${look(index)}`, d: band(one.band, x, y) }) : null),
    limits.map((limit) => [
      h("line", { class: `limit ${limit.kind}`, x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(limit.at), y2: y(limit.at) }),
      h("text", { class: `limit-name ${limit.kind}`, x: EDGE.left + 6, y: y(limit.at) - 5 }, limit.name)]),
    drawn.map((one, index) => h("path", { class: `line ${look(index)}`, d: path(one.points, x, y) })),
    h("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" }));
  const legend = h("ul", { class: "legend" }, drawn.map((one, index) => h("li", {},
    h("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" }, h("path", { class: `line ${look(index)}`, d: "M1 4H27" })),
    h("span", {}, one.name), h("b", { "data-last": index }, last(one)))));
  return h("figure", { class: "chart", "data-key": key ?? name }, legend, svg,
    h("figcaption", { class: "unseen" }, name), twin(name, drawn, limits, across, up));
}

/** What a pointer that rests on a chart is told, once it is drawn anew. */
export function pointAgain(page) {
  for (const svg of page.querySelectorAll("figure > svg")) {
    if (svg.pointed != null) svg.dispatchEvent(new PointerEvent("pointermove", { clientX: svg.pointed }));
  }
}

function path(points, x, y) {
  let pen = "M";
  return points.map(([at, value]) => {
    if (value == null || !Number.isFinite(value)) { pen = "M"; return ""; }
    const step = `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    return step;
  }).join("");
}

function band(rows, x, y) {
  const whole = rows.filter(([, low, high]) => Number.isFinite(low) && Number.isFinite(high));
  if (whole.length < 2) return "";
  const to = ([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  const above = whole.map(([at, , high]) => to([at, high]));
  const below = whole.map(([at, low]) => to([at, low])).reverse();
  return `M${above.join("L")}L${below.join("L")}Z`;
}

/** The same as a table; of many points the last, and every n-th before. */
function twin(name, series, limits, across, up) {
  const xs = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  const step = Math.ceil(xs.length / TABLE_ROWS);
  const shown = xs.filter((_, index) => (xs.length - 1 - index) % step === 0);
  const columns = ["When", ...series.map((one) => `#${one.name}`)];
  const values = series.map((one) => new Map(one.points));
  const caption = limits.length ? `${name}; ${limits.map((limit) => `${limit.name} ${up(limit.at)}`).join(", ")}` : name;
  return h("details", {}, h("summary", {}, "Show as a table"),
    table(caption, columns, shown.map((at) => [across(at), ...values.map((known) => known.get(at) == null ? "–" : up(known.get(at)))])));
}
