// What is known of a release, in a sentence; what it still needs, and when that is to be expected.
import { duration, percent } from "./dom.js";

const AFTER_HOLD = {
  by_severity: "rolled back if a severe metric is still open, and otherwise left to a person",
  rollback: "rolled back", wait: "left to a person",
};
const FEWEST_POINTS = 6; // of a stage, from which a rate is told

/**
 * @param one the release; `look` the last one, or null; `points` what was seen, `lines` the metrics, in order
 * @returns {text, kind, needed: [text, …], when: text}
 */
export function verdict(one, look, policy, points, lines) {
  const [fresh, old] = [`Version ${one.canary}`, `version ${one.stable}`];
  const stage = `stage ${one.stage + 1} of ${one.stages}`;
  const why = one.reason ? `: ${one.reason}` : "";
  switch (one.state) {
    case "PROPOSED":
      return told(`${fresh} has not met any traffic yet${one.waits_for ? `: ${one.waits_for}` : ""}.`, "warn");
    case "ROLLED_BACK":
      return told(`${fresh} was rolled back${why}. All traffic goes to ${old}.`, "bad");
    case "PROMOTED":
      return told(`${fresh} was promoted${why}.${one.watched_until ? " It is still compared, and proven harm causes a rollback or asks a person." : ""}`, "good");
    case "PAUSED":
      if (one.resumes_at) return told(`Paused by the judge at ${stage}${why}. All traffic goes to ${old} until it is tried again.`, "warn");
      return told(`Paused at ${stage}${why}. Proven harm still rolls it back.`, "warn", needs(look));
    case "HELD": {
      const until = look?.verdict.held_since ? look.verdict.held_since + 60 * policy.hold_minutes : null;
      const left = until && until > look.verdict.at ? ` in ${duration(until - look.verdict.at)}` : " soon";
      return told(`Held at ${stage}${why}.`, "warn", needs(look),
        until ? `Unless that changes, it is ${AFTER_HOLD[policy.after_hold]}${left}.` : "");
    }
  }
  if (!look) return told(`${fresh} meets ${percent(one.weight)} of the traffic; nothing is counted yet.`, "");
  const { decision, metrics } = look.verdict;
  const harmful = metrics.filter((metric) => metric.log_e >= metric.threshold).map((metric) => metric.name);
  if (harmful.length) return told(`${fresh} is worse than ${old} in ${harmful.join(" and ")}.`, "bad");
  const needed = needs(look);
  if (decision === "promote") return told(`${fresh} is no worse than ${old} so far, and goes on from ${stage}.`, "good");
  return told(`No harm found: ${fresh.toLowerCase()} goes on at ${stage}, with ${percent(one.weight)} of the traffic.`, "", needed,
    needed.length ? forecast(one, policy, points, lines) : "");
}

const told = (text, kind, needed = [], when = "") => ({ text, kind, needed, when });

/** What keeps the stage from its end, by metric. */
function needs(look) {
  if (!look) return [];
  const { metrics, copies } = look.verdict;
  const open = metrics.filter((metric) => metric.undecided || metric.missing).map((metric) => `${metric.name}: ${metric.undecided || metric.missing}`);
  return copies?.missing ? [...open, `copies: ${copies.missing}`] : open;
}

/** When the stage ends, if the evidence goes on coming as in the second half of what was seen of it. */
function forecast(one, policy, points, lines) {
  const mine = points.filter((point) => point.stage === one.stage);
  const last = mine.at(-1);
  const middle = mine[Math.floor(mine.length / 2)];
  if (mine.length < FEWEST_POINTS || last.at <= middle.at) return "When that is to be expected is told after some more looks.";
  let seconds = Math.max(0, one.changed + 60 * (policy.stages[one.stage]?.minutes ?? 0) - last.at);
  for (const [index, line] of lines.entries()) {
    const [before, now] = [middle.lines[index], last.lines[index]];
    if (line.gate == null || !now || !before || now.log_gate >= line.gate) continue;
    const speed = (now.log_gate - before.log_gate) / (last.at - middle.at);
    if (speed <= 0) return `At the present rate ${line.name} does not reach its gate; the policy or a person decides.`;
    seconds = Math.max(seconds, (line.gate - now.log_gate) / speed);
  }
  return `At the present rate this stage ends in about ${duration(Math.ceil(seconds / 10) * 10)}.`;
}
