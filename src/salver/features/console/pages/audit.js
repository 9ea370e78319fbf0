// What has changed, when, why and by whom. Nobody can change it.
import { at } from "./api.js";
import { card, h, head, moment, short, table } from "./dom.js";
import { needsRegistry } from "./dialogs.js";

export const ACTIONS = ["version.pushed", "version.removed", "alias.moved", "alias.proposed", "alias.deleted", "alias.protected", "alias.unprotected",
  "release.proposed", "release.running", "release.held", "release.paused", "release.resumed", "release.promoted", "release.harmful", "release.rolled_back",
  "tag.set", "tag.removed", "metric.set", "model.changed", "webhook.added", "webhook.removed", "token.made", "token.revoked",
  "key.made", "key.changed", "key.rotated", "key.revoked", "limits.changed"];

export function audit({ query: asked }) {
  const want = { model: asked.get("model") ?? "", action: asked.get("action") ?? "", actor: asked.get("actor") ?? "" };
  const before = asked.get("before") ?? "";
  const link = (more) => {
    const whole = Object.entries({ ...want, ...more }).filter(([, value]) => value);
    return `#/audit${whole.length ? `?${new URLSearchParams(whole)}` : ""}`;
  };
  function filter(event) {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    location.hash = link({ ...given, before: "" });
  }
  return {
    needsRegistry: true,
    seconds: 5,
    paths: () => [`/audit?limit=100&${new URLSearchParams({ ...want, ...(before ? { before } : {}) })}`, "/models?limit=1000"],
    draw(server, page, models) {
      if (!page) return needsRegistry("Audit");
      const names = models.items.map((one) => one.name);
      return [
        head({ title: "Audit", about: "Every change of the registry, the newest first. Nobody can change what is written here." }),
        card("Changes", before ? "Older ones" : null,
          h("form", { onsubmit: filter, "data-key": "filter", role: "search", "aria-label": "Filter" }, h("div", { class: "fields" },
            choice("model", "Model", names, want.model), choice("action", "Change", ACTIONS, want.action),
            h("label", {}, "By", h("input", { name: "actor", value: want.actor, maxlength: 128 })),
            h("div", {}, h("button", { type: "submit" }, "Show")))),
          lines(page.items),
          h("div", { class: "buttons" },
            before ? h("a", { class: "button", href: link({}) }, "Newest") : null,
            page.next ? h("a", { class: "button", href: link({ before: page.next }) }, "Older") : null)),
      ];
    },
  };
}

function choice(name, label, values, chosen) {
  return h("label", {}, label, h("select", { name }, h("option", { value: "" }, "all"),
    values.map((value) => h("option", { value, selected: value === chosen }, value))));
}

/** Of one model, or of all; then each with its own. */
export function lines(items, { ofOne = false } = {}) {
  return table("Changes", ["When", "Change", ...(ofOne ? [] : ["Model"]), "What", "Before", "After", "~Why", "By"], items.map((one) => [
    moment(one.time), one.action, ...(ofOne ? [] : [one.model ? h("a", { href: at`#/models/${one.model}` }, one.model) : "–"]),
    one.action.startsWith("release.") ? h("a", { href: at`#/releases/${one.subject}` }, short(one.subject)) : short(one.subject),
    short(one.before), short(one.after), one.why, short(one.actor)]),
  { empty: "Nothing has changed yet.", hidden: true, keys: items.map((one) => one.seq) });
}
