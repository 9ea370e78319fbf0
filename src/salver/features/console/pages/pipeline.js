// A pipeline: its steps as a picture from the top down, and as a table, with what their runs took.
import { card, count, cut, digits, duration, h, percent, table } from "./dom.js";

const BOX = { width: 200, height: 46, across: 24, down: 34 };

/** Steps by level: below all that they read. */
function levels(steps) {
  const level = new Map();
  for (const step of steps) {
    const above = step.reads.map((read) => level.get(read.source.split(".")[0]) ?? 0);
    level.set(step.name, 1 + Math.max(0, ...above));
  }
  return level;
}

const what = (step) => step.use || `model ${step.model}`;

function picture(name, { steps, edges }) {
  const level = levels(steps);
  const inputs = edges.map((edge) => edge.name).filter((edge) => !edge.includes("."));
  const rows = [inputs.map((input) => ({ name: input, about: edges.find((edge) => edge.name === input).type }))];
  for (const step of steps) {
    (rows[level.get(step.name)] ??= []).push({
      name: step.name, of: step, about: `${cut(what(step), 16)} · ${step.runs ? duration(step.seconds) : "no run"}` });
  }
  const width = Math.max(...rows.map((row) => row.length)) * (BOX.width + BOX.across) + 2 * BOX.across;
  const height = rows.length * (BOX.height + BOX.down);
  const place = new Map();
  rows.forEach((row, down) => row.forEach((one, across) => place.set(one.name, {
    x: (width - row.length * (BOX.width + BOX.across) + BOX.across) / 2 + across * (BOX.width + BOX.across),
    y: down * (BOX.height + BOX.down) + 2 })));
  const seen = new Set();
  const lines = steps.flatMap((step) => step.reads.map((read) => {
    const from = place.get(read.source.split(".")[0]);
    const to = place.get(step.name);
    const key = `${read.source.split(".")[0]} ${step.name}`;
    if (!from || seen.has(key)) return null;
    seen.add(key);
    const [x1, y1, x2, y2] = [from.x + BOX.width / 2, from.y + BOX.height, to.x + BOX.width / 2, to.y];
    const middle = (y1 + y2) / 2;
    if (y2 - y1 > BOX.down + 1) { // around the boxes between
      const side = Math.max(from.x, to.x) + BOX.width;
      const [out, into] = [y1 - BOX.height / 2, y2 + BOX.height / 2];
      return h("path", { class: "edge", d: `M${from.x + BOX.width} ${out}C${side + 40} ${out} ${side + 40} ${into} ${to.x + BOX.width} ${into}` });
    }
    return h("path", { class: "edge", d: `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}` });
  }));
  const boxes = rows.flat().map((one) => {
    const { x, y } = place.get(one.name);
    const kind = !one.of ? "given" : one.of.failures ? "failing" : one.of.is_standby ? "spare" : "";
    return h("g", { class: `step ${kind}` },
      h("rect", { x, y, width: BOX.width, height: BOX.height, rx: 8 }),
      h("text", { class: "name", x: x + 10, y: y + 19 }, cut(one.name, 24)),
      h("text", { x: x + 10, y: y + 36 }, cut(one.about, 30)));
  });
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Picture of ${name}` },
    h("svg", { class: "graph", role: "img", "aria-label": `Steps of ${name}, from the top down`, width, height, viewBox: `0 0 ${width} ${height}` }, lines, boxes));
}

export function pipeline(name, told) {
  const seen = told.edges.filter((edge) => edge.values);
  return card("Pipeline", `Version ${told.version}: ${count(told.requests)} requests since it was loaded.${told.digest ? ` Locked: ${told.digest.slice(0, 12)}.` : ""}`,
    picture(name, told),
    table(`Steps of ${name}`, ["Step", "Kind", "#Runs", "#Mean time", "#Waiting", "#Running", "#Failed", "#Stood in", "#Cached"],
      told.steps.map((step) => [step.name, what(step), count(step.runs), ...[step.seconds, step.queue_seconds, step.run_seconds].map((one) => duration(step.runs ? one : null)),
        count(step.failures), count(step.stood_in), step.cache_lookups ? percent(step.cache_hits / step.cache_lookups) : "–"]), { hidden: true }),
    told.is_sampled ? table(`Values at the edges of ${name}`, ["Edge", "#Requests", "#Missing", "#Mean", "#Deviation", "#Least", "#Most", "#PSI"],
      seen.map((edge) => [edge.name, count(edge.requests), percent(edge.nulls), digits(edge.mean), digits(edge.sd), digits(edge.least), digits(edge.most),
        edge.psi == null ? "–" : `${digits(edge.psi, 2)}${edge.is_notable ? ", unlike the training data" : ""}`]), { empty: "No request was looked at yet." }) : null);
}
