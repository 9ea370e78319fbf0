// What would a release see of a traffic, before it begins?
import { Problem, at, maybe, send } from "./api.js";
import { card, digits, duration, h, head, percent, table } from "./dom.js";
import { askReason, needsRegistry } from "./dialogs.js";
import * as traffic from "./traffic.js";

/** Of the usual policy, what nobody but its owner can foresee. */
export const METRICS = ["errors", "timeouts", "invalid", "fallbacks"].map((name) => ({ name, kind: name }));
const USUAL = { errors: ["Answers that fail", 0.5], timeouts: ["Too late", 0.1], invalid: ["Fit no schema", 0.1], fallbacks: ["From a fallback", 1],
  rejected: ["Rejected as wrong", 0], refused: ["Refused as too many", 0] };
const STAGES = [[0.01, 10, 2000, 4], [0.05, 30, 10000, 2], [0.25, 60, 50000, 1], [1, 0, 0, 1]]
  .map(([weight, minutes, sample, margin_times]) => ({ weight, minutes, sample, margin_times }));
/** What is known without being foreseen: a quantile's share, and that of a bin. */
const KNOWN = new Set(["latency", "output"]);

/** A field for what is to be foreseen of each metric. */
export function fields(metrics) {
  return metrics.filter((metric) => !KNOWN.has(metric.kind)).map(({ name, kind }) => {
    const isMean = kind === "mean"; // values that are summed
    const [label, usual] = isMean ? [`Spread of ${name}, × its mean`, 1] : USUAL[name] ?? [name, 0];
    return h("label", { "data-key": `${kind} ${name}` }, isMean ? label : `${label}, %`,
      h("input", { name: `of ${name}`, type: "number", step: "any", min: 0, max: isMean ? null : 100, required: true, value: usual }));
  });
}

/** What stands in these fields, as a forecast has it; a spread of 0 is none. */
export function foreseen(metrics, given) {
  const [rates, spreads] = [{}, {}];
  for (const { name, kind } of metrics) {
    const value = Number(given.get(`of ${name}`) ?? 0);
    if (kind === "mean" && value) spreads[name] = value;
    else if (kind !== "mean" && !KNOWN.has(kind)) rates[name] = value / 100;
  }
  return { rates, spreads };
}

export function plan({ announce, draw, query }) {
  const model = query.get("model") ?? "";
  let answer = null;
  let problem = "";
  let base = {}; // the model's own policy, or nothing
  async function submit(event) {
    event.preventDefault();
    const given = new FormData(event.target);
    const number = (name) => Number(given.get(name));
    const stages = (base.stages ?? STAGES).map((stage, index) => ({
      ...stage, weight: number(`weight${index}`) / 100, minutes: number(`minutes${index}`), sample: number(`sample${index}`),
    })).filter((stage, index) => stage.weight > 0 || (!index && base.stages?.[0].weight === 0)); // which answers copies alone
    try {
      answer = await send("POST", "/plan", {
        traffic: { requests_per_second: number("rate"), ...foreseen(base.metrics ?? METRICS, given) },
        policy: { ...base, stages, alpha: number("alpha") / 100, warm_up_seconds: number("warm") },
      });
      problem = "";
      announce("The plan is below the form.");
    } catch (error) {
      answer = null;
      problem = error instanceof Problem ? error.message : "The server does not answer.";
    }
    draw();
  }
  return {
    needsRegistry: true,
    paths: () => ["/traffic", "/models?limit=1000", ...(model ? [maybe(at`/models/${model}`), maybe(at`/models/${model}/versions?limit=200`)] : [])],
    learn(counts, known, registered) {
      traffic.learn(counts);
      if (registered && registered.policy !== "immediate") base = registered.policy;
    },
    draw(server, counts, known, registered, versions) {
      if (!counts) return needsRegistry("Plan a release");
      const rate = traffic.rate(counts, model);
      return [
        head({ title: model ? `Plan a release of ${model}` : "Plan a release", about: "What a policy would detect in your traffic, and when. Nothing is started yet." }),
        card("Traffic and policy", rate ? `Now: ${digits(rate)} requests per second.` : null, whose(known.items, model), form(submit, rate, base), problem ? h("p", { class: "notice bad", role: "alert" }, problem) : null),
        answer ? shown(answer) : null,
        answer && versions ? start(model, versions.items, answer.policy, server, announce) : null,
        answer && !model ? h("p", { class: "hint" }, "Choose a model above to start a release by this plan.") : null,
      ];
    },
  };
}

function whose(models, chosen) {
  return h("label", {}, "Model", h("select", {
    onchange: (event) => { location.hash = event.target.value ? `#/plan?model=${encodeURIComponent(event.target.value)}` : "#/plan"; } },
  h("option", { value: "" }, "none: forecast only"), models.map((one) => h("option", { value: one.name, selected: one.name === chosen }, one.name))));
}

/** What was planned, in earnest. */
function start(model, versions, policy, server, announce) {
  const ask = () => askReason({
    title: `Start a release of ${model}?`, verb: "Start", path: "/releases",
    about: "With the policy of this plan, for this release alone. The version that requests meet now stays for all others.",
    fields: [h("label", {}, "New version", h("select", { name: "version" }, versions.map((one) =>
      h("option", { value: one.number }, `${one.number}${one.aliases.length ? ` (${one.aliases.join(", ")})` : ""}`))))],
    body: (values) => ({ model, version: values.version, reason: values.reason, policy }),
    done(made) {
      announce(`Release ${made.id} is proposed.`);
      location.hash = at`#/releases/${made.id}`;
    },
  });
  return card("Start the release", "It begins at the first stage, once both versions are loaded.",
    h("div", { class: "buttons" }, h("button", { class: "main", type: "button", "aria-haspopup": "dialog", disabled: server.changes === "refused", onclick: ask }, "Start this release")));
}

/** Without what a product of floating numbers leaves behind. */
const tidy = (value) => Number(value.toPrecision(12));

function form(submit, rate, base) {
  const field = (name, label, value, more = {}, note = "") => h("label", {}, label, note ? h("small", {}, note) : null,
    h("input", { name, type: "number", step: "any", min: 0, value, required: true, ...more }));
  return h("form", { onsubmit: submit, "data-key": "plan-form" },
    h("div", { class: "fields" }, field("rate", "Requests per second", rate || 10, { min: 0.001 }),
      fields(base.metrics ?? METRICS)),
    h("div", { class: "fields" },
      field("alpha", "False rollbacks, %", tidy(100 * (base.alpha ?? 0.01)), { min: 0.0001, max: 50 }), field("warm", "Warm-up, seconds", base.warm_up_seconds ?? 120)),
    h("fieldset", { class: "stages" }, h("legend", {}, base.stages ? "Stages, as the model's own policy has them" : "Stages"),
      (base.stages ?? STAGES).map(({ weight, minutes, sample }, index) => h("div", { class: "fields" },
        field(`weight${index}`, `Weight of stage ${index + 1}, %`, tidy(100 * weight), { max: 100 }),
        field(`minutes${index}`, "Minutes at least", minutes),
        field(`sample${index}`, "Requests that are enough", sample, { step: 1 })))),
    h("div", { class: "buttons" }, h("button", { class: "main", type: "submit" }, "Forecast")));
}

/** What a policy would see. */
export function shown(answer) {
  const ratios = [...new Set(answer.metrics.flatMap((metric) => metric.detects.map((one) => one.ratio)))].sort((a, b) => a - b);
  const when = (minutes) => (minutes == null ? "not" : duration(minutes * 60));
  const means = new Set(answer.policy.metrics.filter((metric) => metric.kind === "mean").map((metric) => metric.name));
  const whole = answer.minutes.every((minutes) => minutes != null) ? answer.minutes.reduce((sum, minutes) => sum + minutes, 0) : null;
  return [
    card("Forecast", whole == null ? "A version that is no worse would not be promoted without help." : `A version that is no worse is promoted after ${duration(whole * 60)}.`,
      answer.advice.length ? h("ul", { class: "notice warn reasons" }, answer.advice.map((text) => h("li", {}, text))) : null,
      table("Time until a worse version is rolled back, as a rule, by how many times its rate is the old one's", ["Metric", "#Now", ...ratios.map((ratio) => `#× ${digits(ratio)}`)],
        answer.metrics.map((metric) => [metric.name, means.has(metric.name) ? `spread × ${digits(metric.rate)}` : percent(metric.rate),
          ...ratios.map((ratio) => when(metric.detects.find((one) => one.ratio === ratio)?.minutes))]))),
    card("Stages", null,
      table("Stages for a version that is no worse", ["Stage", "#Weight", "#Lasts", ...answer.metrics.map((metric) => `#${metric.name}: gate`)],
        answer.minutes.map((minutes, index) => [String(index + 1), percent(answer.metrics[0].stages[index].weight), minutes == null ? "does not end" : duration(minutes * 60),
          ...answer.metrics.map((metric) => when(metric.stages[index].promotes))]))),
  ];
}
