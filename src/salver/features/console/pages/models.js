// All models: which versions serve, what their names mean, and how much they are asked.
import { at } from "./api.js";
import { card, count, digits, duration, h, head, state, table } from "./dom.js";
import * as traffic from "./traffic.js";

export function models() {
  return {
    paths: (server) => ["/served", "/traffic", ...(server?.has_registry ? ["/models?limit=1000"] : [])],
    learn: (served, counts) => traffic.learn(counts),
    draw(server, served, counts, known) {
      const loaded = served.items.filter((one) => one.state !== "NEW" && one.state !== "GONE");
      const models = new Set(loaded.map((one) => one.model)).size;
      const rate = traffic.rate(counts);
      return [
        head({
          title: "Models",
          about: `${loaded.length} versions of ${models} models are loaded${rate == null ? "" : `, and asked ${digits(rate)} times a second`}.`,
        }),
        known ? card("Registered", `${count(known.items.length)}${known.next ? " and more" : ""} in the registry`, registered(known.items)) : null,
        card("Served", "Versions that this server has loaded, or was told to load.", inMemory(served, counts)),
      ];
    },
  };
}

function registered(items) {
  return table("Models of the registry", ["Model", "Aliases", "#Newest", "#Versions", "Alias moves"],
    items.map((one) => [
      h("a", { href: at`#/models/${one.name}` }, one.name),
      Object.keys(one.aliases).length ? aliases(one.aliases) : "–",
      one.latest ?? "–", one.versions,
      one.policy === "immediate" ? "at once" : `by a release of ${one.policy.stages?.length ?? "some"} stages`,
    ]), { empty: "Nothing is registered yet: salver registry push.", hidden: true, keys: items.map((one) => one.name) });
}

export function aliases(means) {
  return h("ul", { class: "tags" }, Object.entries(means).sort().map(([alias, number]) => h("li", { class: "tag" }, `${alias} → ${number}`)));
}

function inMemory(served, counts) {
  const asked = new Map(counts.items.map((one) => [`${one.model}\n${one.version}`, one]));
  return table("Versions that this server serves", ["Model", "Version", "State", "#Requests/s", "#Mean latency", "#Succeeded", "#Failed", "~Note"],
    served.items.map((one) => {
      const sums = asked.get(`${one.model}\n${one.version}`);
      const now = traffic.now(one.model, one.version);
      return [
        h("a", { href: at`#/models/${one.model}` }, one.model), one.version, state(one.state),
        now.rate == null ? "–" : digits(now.rate), duration(now.time),
        sums ? count(sums.ok) : "–", sums ? count(sums.failed) : "–", one.reason || one.backend,
      ];
    }), { empty: "This server serves nothing yet.", hidden: true, keys: served.items.map((one) => `${one.model}/${one.version}`) });
}
