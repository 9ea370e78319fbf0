// Which server answers: rules with their counts, and the instances of each model as a picture and as a table.
import { at, get, maybe } from "./api.js";
import { card, count, cut, digits, duration, facts, h, head, kindOf, state, table } from "./dom.js";

/** Instances of a picture whose rows have room for words. */
const MOST_NAMED = 24;
const [WIDTH, HEIGHT, BOX, ROW] = [850, 660, 150, 30];
let seen = new Map(); // "model\nurl" -> {at, ended, rate}; what was seen is kept while the tab is open

const keyOf = (model, one) => `${model.model}\n${one.url}`;
const rateOf = (model, one) => seen.get(keyOf(model, one))?.rate;
const perSecond = (rate) => (rate == null ? "–" : `${digits(rate, 2)}/s`);
/** An ejected instance whose time is over is tried with one request at a time. */
const stateOf = (one) => (one.state === "ejected" && !one.returns_seconds ? "half-open" : one.state);

export function routing() {
  return {
    paths: () => [everyModel, maybe("/rules")],
    learn,
    draw(server, models, rules) {
      return [
        head({ title: "Routing", about: "Other servers that answer for models of this one, what they are asked, and which of them are left out; rules on requests." }),
        rules ? ruled(rules) : null,
        models.length ? models.map(shown) : h("p", { class: "hint" }, "No model here is answered by other servers. A folder with an ", h("code", {}, "instances.toml"), " makes one."),
      ];
    },
  };
}

async function everyModel() {
  const { items } = await get("/served");
  const names = new Set(items.filter((one) => one.backend === "instances" && one.state === "READY").map((one) => one.model));
  const models = await Promise.all([...names].sort().map((name) => maybe(at`/models/${name}/instances`)()));
  return models.filter(Boolean); // one may have been unloaded meanwhile
}

/** Requests a second, from counts that only grow while the model is loaded. */
function learn(models) {
  const now = performance.now() / 1000;
  seen = new Map(models.flatMap((model) => model.instances.map((one) => {
    const ended = one.answered + one.failed;
    const before = seen.get(keyOf(model, one));
    const rate = before && ended >= before.ended ? (ended - before.ended) / (now - before.at) : null;
    return [keyOf(model, one), { at: now, ended, rate }];
  })));
}

function ruled({ file, problem, rules }) {
  const words = (values) => Object.entries(values ?? {}).map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  return card("Rules", `The first that matches a request decides. From ${file}`,
    problem ? h("p", { class: "notice bad" }, `The file is wrong, and the rules before its last change hold: ${problem}`) : null,
    table("Rules on requests", ["Rule", "When", "Sets", "Refuses", "#Requests", "~Models that are missing"], rules.map(({ rule, matched, missing }) => [
      rule.name, words(rule.when) || "always", words(rule.set) || "–", words(rule.refuse) || "–", count(matched), missing.join(", ") || "–"]),
    { empty: "The file has none.", hidden: true, keys: rules.map(({ rule }) => rule.name) }));
}

function shown(model) {
  const { instances: all } = model;
  const available = all.filter((one) => one.state === "available").length;
  return card(model.model, `Version ${model.version}: ${count(available)} of ${count(all.length)} instances available`,
    facts([["Policy", model.policy], ["Bound", model.max_requests ? count(model.max_requests) : "none", "requests under way at an instance"], ["Retries", count(model.retries)], ["Hedges", count(model.hedges)],
      ["Budget", count(model.retries_left), "retries and hedges left"], ["Ejections", count(model.ejections)]]),
    model.note ? h("p", { class: "notice" }, model.note) : null,
    all.length ? picture(model) : null,
    table(`Instances of ${model.model}`, ["Instance", "State", "#Requests/s", "#Under way", "#Latency", "#Answered", "#Failed", "#Weight", "~Why"],
      all.map((one) => [one.url, state(stateOf(one)), perSecond(rateOf(model, one)), count(one.pending), duration(one.latency_seconds || null),
        count(one.answered), count(one.failed), digits(one.weight),
        [one.why || "–", one.returns_seconds ? `; tried again in ${duration(one.returns_seconds)}` : null]]),
      { empty: "It has none now.", hidden: true, keys: all.map((one) => one.url) }));
}

/** This server at the left, a line to each instance: the wider, the more requests. */
function picture(model) {
  const { instances: all } = model;
  const isNamed = all.length <= MOST_NAMED;
  const row = isNamed ? ROW : HEIGHT / all.length;
  const height = Math.max(2 * ROW, row * all.length);
  const most = Math.max(1e-9, ...all.map((one) => rateOf(model, one) ?? 0));
  const [middle, left, thick] = [height / 2, isNamed ? 340 : WIDTH - 60, Math.max(1, Math.min(20, row - 1))];
  const lines = all.map((one, index) => {
    const y = (height - row * all.length) / 2 + row * (index + 0.5);
    const bend = (BOX + left) / 2;
    const rate = rateOf(model, one);
    return h("g", { class: `instance ${kindOf(stateOf(one))}` },
      h("title", {}, `${one.url}: ${stateOf(one)}, ${perSecond(rate)}`),
      h("path", { "stroke-width": (1 + (Math.min(8, thick) * (rate ?? 0)) / most).toFixed(1), d: `M${BOX} ${middle}C${bend} ${middle} ${bend} ${y} ${left} ${y}` }),
      h("rect", { x: left, y: y - thick / 2, width: 20, height: thick, rx: 3 }),
      isNamed ? h("text", { x: left + 28, y: y + 4 }, h("tspan", { class: "name" }, cut(one.url, 34)), ` ${stateOf(one)} · ${perSecond(rate)} · ${count(one.pending)} under way`) : null);
  });
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Picture of ${model.model}` },
    h("svg", { class: "graph", role: "img", width: WIDTH, height, viewBox: `0 0 ${WIDTH} ${height}`,
      "aria-label": `This server and the instances of ${model.model}: the wider a line, the more requests. The table below has the same.` },
    lines, h("rect", { x: 1, y: middle - 23, width: BOX, height: 46, rx: 8 }), h("text", { class: "name", x: 14, y: middle + 4 }, "This server")));
}
