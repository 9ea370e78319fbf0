// All models: which versions serve, what their names mean, and how much they are asked.
import { at } from "./api.js";
import { card, count, digits, duration, h, head, state, table } from "./dom.js";
import * as traffic from "./traffic.js";

export function models() {
  return {
    paths: () => ["/served", "/traffic"],
    learn: (served, counts) => traffic.learn(counts),
    draw(server, served, counts) {
      const asked = new Map(counts.items.map((one) => [`${one.model}\n${one.version}`, one]));
      const loaded = served.items.filter((one) => one.state !== "NEW" && one.state !== "GONE");
      const rate = loaded.reduce((sum, one) => sum + (traffic.now(one.model, one.version).rate ?? 0), 0);
      return [
        head({ title: "Models", about: `${loaded.length} versions of ${new Set(loaded.map((one) => one.model)).size} models, ${digits(rate)} requests a second.` }),
        card("Served", "What this server holds in memory, or was to.",
          table("Versions that this server serves", ["Model", "Version", "State", "#Requests/s", "#Time", "#Answered", "#Failed", "~Note"],
            served.items.map((one) => {
              const sums = asked.get(`${one.model}\n${one.version}`);
              const now = traffic.now(one.model, one.version);
              return [
                h("a", { href: at`#/models/${one.model}` }, one.model), one.version, state(one.state),
                now.rate == null ? "–" : digits(now.rate), duration(now.time),
                sums ? count(sums.ok) : "–", sums ? count(sums.failed) : "–", one.reason || one.backend,
              ];
            }), { empty: "This server serves nothing yet.", hidden: true })),
      ];
    },
  };
}
