// One release: how it stands, on which evidence, and what a person may do about it.
import { at } from "./api.js";
import { card, count, digits, duration, facts, h, head, instant, moment, percent, state, table, timesFrom } from "./dom.js";
import { chart } from "./chart.js";
import { askReason, needsRegistry } from "./dialogs.js";
import { stage } from "./releases.js";
import { verdict } from "./verdict.js";

const POINTS = 300; // of all that was seen, evenly taken
const MOST = 600; // with what came since; then all of it is taken anew
const MISSED_SECONDS = 3600; // a server that was silent for longer is no news, where others are heard

export function release(id, { announce, again, draw }) {
  const path = at`/releases/${id}`;
  const seen = new Map(); // number of a look -> point
  let whole = true;
  let lines = [];
  let chosen = 0;
  let told = "";
  let stand = "";
  let ended = ""; // the model of a release of which nothing more comes, but for what a person asks
  let isAsked = false;
  let next = null; // another release of that model, if one is under way; null = not known
  const still = () => {
    const then = stand; // of which a person decides
    return () => (stand === then ? "" : "It has gone on meanwhile, and stands otherwise than when you asked; look again");
  };
  return {
    needsRegistry: true,
    get seconds() { return ended && next && !isAsked ? 30 : 3; },
    paths: () => [path, `${path}/evidence?points=${POINTS}&after=${whole ? -1 : Math.max(-1, ...seen.keys())}`,
      ...(ended ? [at`/releases?is_live=true&limit=1&model=${ended}`] : [])],
    learn(detail, evidence, live) {
      lines = evidence.metrics;
      if (whole) seen.clear();
      for (const point of evidence.items) seen.set(point.seq, point);
      whole = seen.size > MOST;
      stand = `${detail.release.state} ${detail.release.stage}`;
      if (told && told !== stand) announce(`The release is ${detail.release.state.toLowerCase().replace("_", " ")}, stage ${stage(detail.release)}. ${detail.release.reason}`);
      if (told !== stand) isAsked = false;
      told = stand;
      ended = detail.release.ended && !detail.release.watched_until ? detail.release.model : "";
      next = live?.items ?? null;
    },
    draw(server, detail) {
      if (!detail) return needsRegistry("Release");
      const { release: one, look, policy, servers } = detail;
      const points = [...seen.values()];
      const said = verdict(one, look, policy, points, lines);
      return [
        head({
          crumb: ["All releases", "#/releases"],
          title: `${one.model}: version ${one.canary} in place of ${one.stable}`,
          about: one.why ? `${one.by || "Somebody"}: “${one.why}”` : one.by ? `Proposed by ${one.by}.` : "",
          actions: actions(one, policy, path, server, { announce, still, again() { isAsked = true; again(); } }),
        }),
        next?.length ? h("p", { class: "notice" }, "Another release of the model is in progress: ",
          h("a", { href: at`#/releases/${next[0].id}` }, `${next[0].stable} → ${next[0].canary}`)) : null,
        concluded(said, look),
        standing(one, look, policy, servers, said),
        points.length ? evidenceCards(points, lines) : null,
        look?.verdict.copies ? copies(look.verdict.copies) : null,
        look ? metrics(one, look, policy) : null,
        points.length ? effect(points, lines, policy, chosen, (next) => { chosen = next; draw(); }) : null,
        look ? arms(one, look) : null,
        terms(policy),
      ];
    },
  };
}

function actions(one, policy, path, server, { announce, again, still }) {
  const ask = (what, words) => h("button", {
    type: "button", class: words.kind ?? false, disabled: server.changes === "refused",
    "data-key": what, // another that comes or goes leaves the focus where it is
    "aria-haspopup": "dialog", onclick: () => askReason({
      title: `${words.verb} this release?`, about: `${one.model}, ${one.stable} → ${one.canary}: ${words.about}`, verb: words.verb,
      kind: words.kind === "danger" ? "danger" : "main", path: `${path}/${what}`, still: what === "promote" ? still() : undefined,
      done(answer) {
        announce(answer.is_done ? `Done: ${answer.release.state.toLowerCase()}` : "Asked; the server sees to it on its next tick.");
        again();
      },
    }) }, words.verb);
  const shown = [];
  if (["PROPOSED", "RUNNING", "HELD"].includes(one.state)) shown.push(ask("pause", { verb: "Pause", about: "it keeps its weight and goes no further. Proven harm still rolls it back." }));
  if (["PAUSED", "HELD"].includes(one.state)) shown.push(ask("resume", { verb: "Resume", about: "it is judged again, and goes on as its policy says." }));
  if (!["PROMOTED", "ROLLED_BACK"].includes(one.state)) {
    shown.push(ask("promote", { verb: "Promote", about: `it takes its next step, whatever is not proven yet: ${nextStep(one, policy)}.` }));
  }
  if (one.state !== "ROLLED_BACK") {
    shown.push(ask("abort", { verb: one.state === "PROMOTED" ? "Roll back" : "Abort", kind: "danger", about: `version ${one.stable} takes all of the traffic back, at once. That is final.` }));
  }
  return shown;
}

/** Where a promotion leads from here. */
function nextStep(one, policy) {
  const next = one.state === "PROPOSED" ? 0 : one.stage + 1;
  return next < one.stages ? `stage ${next + 1} of ${one.stages}, in which ${percent(policy.stages[next].weight)} of the units meet version ${one.canary}`
    : `version ${one.canary} gets all of the traffic${one.alias ? `, and @${one.alias} moves to it` : ""}`;
}

/** Who counts it, in two parts of a fact; null = nobody is to. */
function counted(one, servers) {
  if (one.state === "PROPOSED" || (one.ended && !one.watched_until)) return null;
  const heard = servers.filter((each) => each.is_heard).length;
  const silent = servers.filter((each) => !each.is_heard && (!heard || each.silent_seconds < MISSED_SECONDS)).map((each) => each.silent_seconds);
  return [heard === 1 ? "1 server" : `${heard || "no"} servers`,
    silent.length ? `${silent.length} silent for ${duration(Math.round(Math.min(...silent)))}${silent.length > 1 ? " or more" : ""}` : null];
}

function concluded({ text, kind, needed, when }, look) {
  return h("section", { class: "card", "aria-labelledby": "verdict" },
    h("header", {}, h("h2", { id: "verdict" }, "Verdict"), look ? h("p", {}, "Last evaluated ", instant(look.verdict.at)) : null),
    h("p", { class: `verdict ${kind}` }, text),
    needed.length ? h("div", { class: "needed" }, h("h3", {}, "Still needed"), h("ul", {}, needed.map((each) => h("li", {}, each)))) : null,
    when ? h("p", { class: "hint" }, when) : null);
}

function standing(one, look, policy, servers, { text, needed }) {
  const judged = look && look.verdict.at >= one.changed ? look.verdict.reasons : []; // older ones are of another state
  const reasons = [...new Set([one.reason, ...judged])].filter((reason) => reason && !text.includes(reason) && !needed.includes(reason));
  const counts = counted(one, servers);
  return h("section", { class: "card", "aria-labelledby": "standing" },
    h("header", {}, h("h2", { id: "standing" }, "Status")),
    counts?.[0].startsWith("no") ? h("p", { class: "notice warn" }, `No server counts it now, so nothing is decided: start one that serves ${one.model} with this registry.`) : null,
    facts([
      ["State", state(one.state)],
      ["Stage", stage(one), policy.stages[one.stage] && !one.ended ? `${duration(policy.stages[one.stage].minutes * 60)} at least` : null],
      ["Traffic to the new version", percent(one.weight), "of the units"],
      counts ? ["Counted by", ...counts] : null,
      ["Model", h("a", { href: at`#/models/${one.model}` }, one.model), one.alias ? (one.ended ? `by @${one.alias}` : `@${one.alias} moves when it is promoted`) : null],
      one.state === "HELD" && look?.verdict.held_since ? ["Held until", moment(look.verdict.held_since + 60 * policy.hold_minutes)] : null,
      one.pauses ? ["Paused by the judge", one.pauses === 1 ? "once" : `${one.pauses} times`] : null,
      one.resumes_at ? ["Tried again", moment(one.resumes_at)] : null,
      one.watched_until ? ["Compared until", moment(one.watched_until)] : null,
      one.ended ? ["Finished", moment(one.ended), `after ${duration(one.ended - one.created)}`] : ["Started", moment(one.created)],
    ]),
    h("ol", { class: "steps", "aria-label": "Stages" }, policy.stages.map((each, index) =>
      h("li", { class: index < one.stage && "done", "aria-current": index === one.stage && !one.ended && "step" }, percent(each.weight)))),
    reasons.length ? h("ul", { class: "reasons" }, reasons.map((text) => h("li", {}, text))) : null);
}

function arms(one, look) {
  const { requests } = look.bucket;
  const units = look.verdict.metrics.reduce((most, metric) => (total(metric.units) > total(most) ? metric.units : most), { canary: 0, baseline: 0, stable: 0 });
  const all = total(units);
  const rows = [["canary", one.canary], ["baseline", one.stable], ["stable", one.stable]];
  let left = 0;
  return card("Traffic split", "Units are told apart by their keys; the baseline is as large as the canary.",
    all ? h("svg", { class: "arms", viewBox: "0 0 600 14", role: "img", "aria-label": rows.map(([arm]) => `${arm} ${percent(units[arm] / all)}`).join(", ") },
      rows.map(([arm], index) => {
        const width = (units[arm] / all) * 600;
        const bar = h("rect", { class: `arm ${arm}`, x: left, y: 0, width: Math.max(0, width - 2), height: 14, rx: 3 });
        left += width;
        return bar;
      })) : null,
    table("Units and requests by arm", ["Arm", "Version", "#Units so far", "#Share", "#Requests in the last window"],
      rows.map(([arm, version]) => [arm, version, count(units[arm]), all ? percent(units[arm] / all) : "–", count(requests[arm])]), { hidden: true }));
}

/** Of a stage without weight: what the new version makes of copies, of which nobody gets the answers. */
function copies({ copies: of, log_alike, gate, log_unlike, threshold, missing }) {
  const part = (value, whole) => percent(Math.max(0, value / whole));
  const share = (number) => [count(number), of.asked ? percent(number / of.asked) : null];
  return card("Copies", "No caller gets the new version's answers yet: it answers copies of requests, which are compared.", facts([
    ["Answered twice", count(of.asked)], ["Differed", ...share(of.differed)], ["Failed", ...share(of.failed)], ["Took longer", ...share(of.slower)],
    ["Evidence that they are alike", part(log_alike, gate), "at 100 % the stage may end"],
    ["Evidence that they are not", part(log_unlike, threshold), "at 100 % it is held, or rolled back"],
  ]), missing ? h("p", { class: "hint" }, `Still needed: ${missing}.`) : null);
}

/** The multiple of its control's rate that a metric may have, by a margin. */
const bound = (metric, margin) => (metric.worse === "less" ? 1 - margin : 1 + margin);

const total = (counts) => counts.canary + counts.baseline + counts.stable;
const rate = (events, units) => (units ? [percent(events / units), h("small", { class: "next" }, `${count(events)} of ${count(units)}`)] : "–");

/** Events and units of whom the canary is held against: latencies by the matched baseline alone. */
function control({ events, units }, isMatched) {
  return isMatched ? [events.baseline, units.baseline] : [events.baseline + events.stable, units.baseline + units.stable];
}

function metrics(one, look, policy) {
  const kinds = new Map(policy.metrics.map((metric) => [metric.name, metric]));
  return card("Metrics", "How often each happened, and what that proves.",
    table("Metrics with their evidence", ["Metric", "Verdict", "#Canary", "#Control", "#Ratio", "#Interval", "#Harm", "#No harm", "~Still needed"],
      look.verdict.metrics.map((metric) => {
        const isHarm = metric.log_e >= metric.threshold;
        const kind = kinds.get(metric.name) ?? {};
        const isMean = kind.kind === "mean"; // values that are summed, and no events
        const isPassed = metric.gate != null && metric.log_gate >= metric.gate;
        return [
          [metric.name, " ", h("span", { class: "tag" }, kind.severity ?? "")],
          state(isHarm ? "fail" : isPassed ? "pass" : "open"),
          isMean ? "–" : rate(metric.events.canary, metric.units.canary),
          isMean ? "–" : rate(...control(metric, kind.kind === "latency")),
          metric.effect == null ? "–" : `× ${digits(metric.effect)}`,
          `${metric.low == null ? "0" : digits(metric.low, 2)} to ${metric.high == null ? "∞" : digits(metric.high, 2)}`,
          percent(Math.max(0, metric.log_e / metric.threshold), 2),
          metric.gate == null ? "no gate" : percent(Math.max(0, metric.log_gate / metric.gate), 2),
          one.ended && !one.watched_until ? "–" : metric.undecided || metric.missing || "nothing",
        ];
      }), { hidden: true }),
    h("p", { class: "hint" }, "Harm and no harm are evidence, as a share of what decides: at 100 % harm rolls back, and no harm lets the stage end."));
}

function evidenceCards(points, lines) {
  const part = (value, whole) => (whole ? Math.max(0, value / whole) : null);
  const drawn = (pick) => lines.map((line, index) => ({
    name: line.name, points: points.map((point) => [point.at, point.lines[index] ? pick(point.lines[index], line) : null]) }));
  const up = (value) => (value == null ? "–" : `${Math.round(value * 100)} %`);
  const most = (series) => series.map((one) => `${one.name} ${up(one.points.at(-1)?.[1])}`).join(", ");
  const harm = drawn((at, line) => part(at.log_e, line.threshold));
  const [marks, across] = [stages(points), timesFrom(points[0].at, points.at(-1).at)];
  const gates = drawn((at, line) => part(at.log_gate, line.gate)).filter((_, index) => lines[index].gate != null);
  return h("div", { class: "columns" },
    card("Evidence of harm", "As a share of what rolls back.",
      chart({ key: "harm", name: "Evidence of harm over time", about: `Now: ${most(harm)}; at 100 % it rolls back.`, series: harm,
        limits: [{ name: "rolls back", at: 1, kind: "fail" }], marks, across, up, floor: 0, most: 1.5 })),
    card("Evidence of no harm", "As a share of the gate, anew at each stage.",
      chart({ key: "gates", name: "Evidence of no harm over time", about: `Now: ${most(gates)}; at 100 % the gate is passed.`, series: gates,
        limits: [{ name: "gate passed", at: 1, kind: "pass" }], marks, across, up, floor: 0, most: 1.5 })));
}

/** Where a stage begins, but for the first. */
const stages = (points) => points.filter((point, index) => index && point.stage !== points[index - 1].stage)
  .map((point) => ({ at: point.at, name: `stage ${point.stage + 1}` }));

function effect(points, lines, policy, chosen, choose) {
  const line = lines[chosen];
  const metric = policy.metrics[chosen];
  const rows = points.map((point) => [point.at, point.lines[chosen]]).filter(([, one]) => one);
  const most = Math.max(3, 2 * bound(metric, metric.promotion_margin ?? 0), ...rows.map(([, one]) => 1.5 * (one.low ?? 0))); // what is proven is seen
  return card("Size of the effect", "The canary's rate as a multiple of its control's, with its confidence sequence.",
    h("label", {}, "Metric", h("select", { onchange: (event) => choose(Number(event.target.value)) },
      lines.map((one, index) => h("option", { value: index, selected: index === chosen }, one.name)))),
    chart({
      key: `effect-${chosen}`, name: `Ratio of ${line.name}`, about: `${line.name}: ${digits(rows.at(-1)?.[1].effect)} times its control's.`,
      series: [{ name: line.name, points: rows.map(([when, one]) => [when, one.effect]),
        band: rows.map(([when, one]) => [when, one.low ?? 0, Math.min(most, one.high ?? most)]) }],
      limits: [
        { name: `tolerated: × ${digits(bound(metric, metric.rollback_margin))}`, at: bound(metric, metric.rollback_margin), kind: "fail" },
        ...(metric.promotion_margin == null ? [] : [{
          name: `to be ruled out: × ${digits(bound(metric, metric.promotion_margin))}`, at: bound(metric, metric.promotion_margin), kind: "pass" }]),
      ],
      marks: stages(points), across: timesFrom(points[0].at, points.at(-1).at), up: (value) => (value == null ? "–" : `× ${digits(value)}`), floor: 0, most, span: 2,
    }));
}

function terms(policy) {
  return card("Policy", `A release that is no worse is rolled back once in ${count(1 / policy.alpha)}; one that is worse by a margin passes a gate once in ${count(1 / policy.beta)}.`,
    h("details", {}, h("summary", {}, "Stages and metrics"),
      table("Stages", ["Stage", "#Weight", "#At least", "#Requests", "#Margins"], policy.stages.map((one, index) => [
        String(index + 1), percent(one.weight), duration(one.minutes * 60), one.sample ? count(one.sample) : "–", `× ${digits(one.margin_times)}`])),
      table("Metrics", ["Metric", "Counts", "Severity", "Worse is", "#Tolerated", "#To be ruled out", "#Negligible"], policy.metrics.map((one) => [
        one.name, one.kind, one.severity, one.worse, `× ${digits(bound(one, one.rollback_margin))}`,
        one.promotion_margin == null ? "no gate" : `× ${digits(bound(one, one.promotion_margin))}`, percent(one.negligible)]))));
}
