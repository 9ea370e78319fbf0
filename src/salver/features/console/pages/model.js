// One model: its versions, live; what its aliases mean, and what became of them.
import { Problem, at, get, maybe, tagOf } from "./api.js";
import { bytes, card, count, digits, duration, h, head, moment, state, table, timeOfDay } from "./dom.js";
import { chart } from "./chart.js";
import { lines } from "./audit.js";
import { askReason } from "./dialogs.js";
import { pipeline } from "./pipeline.js";
import { sample, signature } from "./sample.js";
import { stage } from "./releases.js";
import * as traffic from "./traffic.js";

export function model(name, { announce, again, draw }) {
  const path = at`/models/${name}`;
  const of = `model=${encodeURIComponent(name)}`;
  let difference = null;
  let problem = "";
  let isPipeline = false; // known after the first answer
  async function compare(event) {
    event.preventDefault();
    const given = new FormData(event.target);
    try {
      difference = await get(`${path}/diff?before=${given.get("before")}&after=${given.get("after")}`);
      problem = "";
    } catch (error) {
      difference = null;
      problem = error instanceof Problem ? error.message : "The server does not answer.";
    }
    draw();
  }
  return {
    paths: (server) => ["/served", "/traffic", () => signature(name), () => (isPipeline ? maybe(`${path}/pipeline`)() : null), ...(server?.has_registry
      ? [maybe(path), maybe(`${path}/versions?limit=200`), `/audit?limit=20&${of}`, `/releases?limit=20&${of}`] : [])],
    learn: (served, counts) => traffic.learn(counts),
    draw(server, served, counts, inputs, steps, registered, versions, audit, releases) {
      const live = counts.items.filter((one) => one.model === name);
      const mine = served.items.filter((one) => one.model === name);
      isPipeline = mine.some((one) => one.backend === "pipeline" && one.state === "READY");
      if (!registered && !mine.length) return head({ crumb: ["All models", "#/"], title: name, about: "There is no such model." });
      return [
        head({
          crumb: ["All models", "#/"], title: name,
          about: registered ? `${registered.versions} versions in the registry; an alias moves ${registered.policy === "immediate" ? "at once" : "by a release"}.` : "",
          actions: registered ? [h("a", { class: "button", href: at`#/models/${name}/policy` }, "Policy"), h("a", { class: "button", href: `#/plan?${of}` }, "Plan a release")] : [],
        }),
        live.length ? traffics(live) : null,
        steps ? pipeline(name, steps) : null,
        inputs ? sample(name, inputs) : null,
        registered ? names(registered, versions?.items ?? [], path, server, { announce, again }) : null,
        releases?.items.length ? card("Releases", null, table(`Releases of ${name}`, ["Release", "Versions", "State", "Stage", "Changed", "~Why"],
          releases.items.map((one) => [h("a", { href: at`#/releases/${one.id}` }, one.id), `${one.stable} → ${one.canary}`, state(one.state), stage(one), moment(one.changed), one.reason]), { hidden: true })) : null,
        versions ? pushed(name, versions) : null,
        versions?.items.length > 1 ? compared(versions.items, compare, difference, problem) : null,
        card("Loaded", null, table(`Loaded versions of ${name}`, ["Version", "State", "Framework", "#Load time", "~Note"],
          mine.map((one) => [one.version, state(one.state), one.backend, duration(one.load_seconds || null), one.reason]),
          { empty: "This server has loaded no version of it.", hidden: true })),
        audit ? card("History", null, lines(audit.items, { ofOne: true }), h("p", {}, h("a", { href: `#/audit?${of}` }, "All of its history"))) : null,
      ];
    },
  };
}

function traffics(live) {
  const rates = live.map((one) => ({ name: `version ${one.version}`, points: traffic.rates(one.model, one.version) }));
  const times = live.map((one) => ({ name: `version ${one.version}`, points: traffic.times(one.model, one.version) }));
  const told = rates.map((one) => `${one.name} ${digits(one.points.at(-1)?.[1] ?? 0)} a second`).join(", ");
  return h("div", { class: "columns" },
    card("Requests per second", "Since this page was opened.",
      chart({ name: "Requests per second by version", about: `Now: ${told || "none"}.`, series: rates, across: timeOfDay, up: (value) => digits(value ?? 0), floor: 0 })),
    card("Mean latency", "From arrival to answer.",
      chart({ name: "Mean latency by version", about: "From arrival to answer.", series: times, across: timeOfDay, up: duration, floor: 0 })));
}

function names(registered, versions, path, server, page) {
  const taken = Object.entries(registered.aliases).sort();
  const move = (alias, number) => async () => {
    const place = `${path}/aliases/${encodeURIComponent(alias)}`;
    if (alias) await get(place).catch(() => null); // whose tag says what this person has seen
    askReason({
      title: alias ? `Move ${alias}?` : "A new alias",
      about: registered.policy === "immediate" || !alias ? "Requests follow it at once." : "It is proposed to a release, which moves it when the new version has shown that it is no worse.",
      verb: alias ? "Move" : "Set", method: "PUT",
      path: (values) => `${path}/aliases/${encodeURIComponent(alias || values.alias)}`,
      headers: alias && tagOf(place) ? { "if-match": tagOf(place) } : {},
      fields: [
        alias ? null : h("label", {}, "Alias", h("input", { name: "alias", required: true, maxlength: 64, pattern: "[A-Za-z][A-Za-z0-9._\\-]*" })),
        h("label", {}, "Version", h("select", { name: "version" }, versions.map((one) =>
          h("option", { value: one.number, selected: one.number === number }, `${one.number}${one.aliases.length ? ` (${one.aliases.join(", ")})` : ""}`)))),
      ],
      body: (values) => ({ version: Number(values.version), reason: values.reason }),
      done(moved) {
        page.announce(moved.release ? `Proposed as release ${moved.release}.` : `${moved.alias} means version ${moved.number}.`);
        if (moved.release) location.hash = at`#/releases/${moved.release}`;
        else page.again();
      },
    });
  };
  const protect = (alias) => () => askReason({
    title: `Who may move ${alias}?`, verb: "Keep", method: "PUT", path: `${path}/aliases/${encodeURIComponent(alias)}/protection`,
    about: "Whoever has one of these roles by a token of the registry's; without any, whoever may change something.",
    fields: [h("label", {}, "Roles", h("input", { name: "roles", value: registered.protected[alias]?.join(", ") ?? "", maxlength: 500, autocomplete: "off" }), h("small", {}, "With commas between them; some token has to have one."))],
    body: (values) => ({ roles: values.roles.split(",").map((role) => role.trim()).filter(Boolean), reason: values.reason }),
    done(view) {
      page.announce(view.protected.length ? `${alias} is moved by ${view.protected.join(", ")} alone.` : `${alias} is protected no more.`);
      page.again();
    },
  });
  const button = (words, alias, number) => h("button", {
    type: "button", "aria-haspopup": "dialog", disabled: server.changes === "refused" || !versions.length, onclick: move(alias, number),
    "aria-label": alias ? `Move ${alias}` : false }, words);
  return card("Aliases", "A name that means a version, and may move.",
    table("Aliases", ["Alias", "#Version", "Who may move it", "Change"], taken.map(([alias, number]) => [
      alias, number, registered.protected[alias]?.join(", ") || "anyone who may change something",
      h("div", { class: "buttons" }, button("Move", alias, number), h("button", {
        type: "button", "aria-haspopup": "dialog", disabled: server.changes === "refused", "aria-label": `Protect ${alias}`, onclick: protect(alias) }, "Protect"))]),
    { empty: "It has none yet.", hidden: true }),
    h("div", { class: "buttons" }, button("New alias", "", 0)));
}

function pushed(name, { items: versions, next }) {
  return card("Versions", next ? `The newest ${count(versions.length)}.` : null,
    table(`Versions of ${name} in the registry`, ["Version", "Aliases", "Framework", "#Size", "Pushed", "By", "Tags", "Metrics", "~Why"],
      versions.map((one) => [
        h("a", { href: at`#/models/${name}/versions/${one.number}` }, one.number), one.aliases.join(", ") || "–", one.format || one.framework || "–", bytes(one.size), moment(one.created), one.by,
        pairs(one.tags), pairs(Object.fromEntries(Object.entries(one.metrics).map(([key, value]) => [key, digits(value)]))), one.why,
      ]), { empty: "None is pushed yet.", hidden: true }));
}

export const pairs = (named) => Object.keys(named).length
  ? h("ul", { class: "tags" }, Object.entries(named).sort().map(([key, value]) => h("li", { class: "tag" }, `${key}: ${value}`))) : "–";

function compared(versions, compare, difference, problem) {
  const pick = (name, label, chosen) => h("label", {}, label, h("select", { name }, versions.map((one) =>
    h("option", { value: one.number, selected: one.number === chosen }, one.number))));
  return card("Differences", null,
    h("form", { onsubmit: compare, "data-key": "diff" }, h("div", { class: "fields" },
      pick("before", "From version", versions[1].number), pick("after", "to version", versions[0].number),
      h("div", {}, h("button", { type: "submit" }, "Compare")))),
    problem ? h("p", { class: "notice bad", role: "alert" }, problem) : null,
    difference ? table(`From version ${difference.before} to ${difference.after}`, ["Part", "~What", "~Before", "~After"],
      difference.items.map((one) => [one.part, one.what || "–", one.before ?? "–", one.after ?? "–"]), { empty: "They differ in nothing that is known." }) : null);
}
