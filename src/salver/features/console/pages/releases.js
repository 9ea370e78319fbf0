// All releases: who is on the way, and what became of the others.
import { at } from "./api.js";
import { card, h, head, moment, percent, state, table } from "./dom.js";
import { needsRegistry } from "./dialogs.js";

export function releases({ query }) {
  const after = query.get("after") ?? "";
  return {
    needsRegistry: true,
    seconds: 5,
    paths: () => [`/releases?limit=50&is_live=false&after=${encodeURIComponent(after)}`, "/releases?limit=1000&is_live=true"],
    draw(server, page, live) {
      if (!page) return needsRegistry("Releases");
      return [
        head({
          title: "Releases",
          about: "A release sends a little of the traffic to a new version, compares it with the old one, and goes on, waits or rolls back.",
          actions: [h("a", { class: "button main", href: "#/plan" }, "Plan a release")],
        }),
        card("In progress", `${live.items.length}${live.next ? " and more" : ""} now`, list("Releases in progress", live.items, "No release is in progress.")),
        card("Finished", after ? "Older ones" : null, list("Finished releases", page.items, "None has finished yet."),
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
    ]), { empty, hidden: true, keys: items.map((one) => one.id) });
}

export const stage = (one) => (one.stage < one.stages ? `${one.stage + 1} of ${one.stages}` : `all ${one.stages}`);
