// One model: its versions, live.
import { card, duration, h, head, state, table, timeOfDay, digits } from "./dom.js";
import { chart } from "./chart.js";
import * as traffic from "./traffic.js";

export function model(name) {
  return {
    paths: () => ["/served", "/traffic"],
    learn: (served, counts) => traffic.learn(counts),
    draw(server, served, counts) {
      const versions = served.items.filter((one) => one.model === name);
      const live = counts.items.filter((one) => one.model === name);
      return [
        head({ crumb: ["All models", "#/"], title: name }),
        traffics(name, live),
        card("Versions", null, table(`Versions of ${name} in memory`, ["Version", "State", "Framework", "#Load", "~Note"],
          versions.map((one) => [one.version, state(one.state), one.backend, duration(one.load_seconds || null), one.reason]),
          { empty: "This server holds no version of it.", hidden: true })),
      ];
    },
  };
}

export function traffics(name, live) {
  const rates = live.map((one) => ({ name: `version ${one.version}`, points: traffic.rates(name, one.version) }));
  const times = live.map((one) => ({ name: `version ${one.version}`, points: traffic.times(name, one.version) }));
  const told = rates.map((one) => `${one.name} ${digits(one.points.at(-1)?.[1] ?? 0)} a second`).join(", ");
  return h("div", { class: "columns" },
    card("Requests a second", "Since this page was opened.",
      chart({ name: "Requests a second by version", about: `Now: ${told || "none"}.`, series: rates, across: timeOfDay, up: (value) => digits(value ?? 0), floor: 0 })),
    card("Time of a request", "The mean, from arrival to answer.",
      chart({ name: "Mean time of a request by version", about: "", series: times, across: timeOfDay, up: duration, floor: 0 })));
}
