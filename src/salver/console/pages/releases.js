// All releases: who is on the way, and what became of the others.
import { at } from "./api.js";
import { card, h, head, moment, percent, state, table } from "./dom.js";
import { needsRegistry } from "./dialogs.js";

const LIVE = new Set(["PROPOSED", "RUNNING", "HELD", "PAUSED"]);

export function releases({ query }) {
  const after = query.get("after") ?? "";
  return {
    needsRegistry: true,
    seconds: 5,
    paths: () => [`/releases?limit=50&after=${encodeURIComponent(after)}`],
    draw(server, page) {
      if (!page) return needsRegistry("Releases");
      const live = page.items.filter((one) => LIVE.has(one.state));
      const over = page.items.filter((one) => !LIVE.has(one.state));
      return [
        head({
          title: "Releases",
          about: "A release brings a new version to a little of the traffic, looks at what it does there, and goes on, waits or goes back.",
          actions: [h("a", { class: "button", href: "#/plan" }, "Plan one")],
        }),
        after && !live.length ? null : card("Under way", `${live.length} now`, list("Releases under way", live, "No release is under way.")),
        card("Over", null, list("Releases that are over", over, "None has ended yet."),
          h("div", { class: "buttons" },
            after ? h("a", { class: "button", href: "#/releases" }, "Newest") : null,
            page.next ? h("a", { class: "button", href: `#/releases?after=${encodeURIComponent(page.next)}` }, "Older") : null)),
      ];
    },
  };
}

function list(caption, items, empty) {
  return table(caption, ["Release", "Model", "Versions", "State", "Stage", "#Weight", "Changed", "~Why"],
    items.map((one) => [
      h("a", { href: at`#/releases/${one.id}` }, one.id),
      h("a", { href: at`#/models/${one.model}` }, one.model),
      `${one.stable} → ${one.canary}`, state(one.state), stage(one), percent(one.weight), moment(one.changed),
      one.waits_for || one.reason,
    ]), { empty, hidden: true });
}

export const stage = (one) => (one.stage < one.stages ? `${one.stage + 1} of ${one.stages}` : `all ${one.stages}`);
