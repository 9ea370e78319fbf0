// Who may call, and what for. A key is seen once, when it is made.
import { at, identity, maybe } from "./api.js";
import { card, h, head, moment, state, table } from "./dom.js";
import { askReason, needsRegistry, tellOnce } from "./dialogs.js";

const AT_ONCE = 100;
const UNITS = [["requests", "requests", "50/s+100"], ["rows", "rows", "2000/s"], ["tokens", "tokens", "100/s"]];

export function keys({ announce, again, query }) {
  const after = query.get("after") ?? "";
  return {
    seconds: 5,
    paths: () => [maybe(`/keys?limit=${AT_ONCE}${after ? `&after=${encodeURIComponent(after)}` : ""}`), maybe("/limits")],
    draw(server, page, declared) {
      if (!page) return [...needsRegistry("Keys"), h("p", { class: "hint" }, "Without one, keys are kept in a file: ", h("code", {}, "--keys-file FILE"), ".")];
      const isRefused = server.changes === "refused";
      const isFirst = !page.items.length && !after;
      const does = { announce, again };
      return [
        head({
          title: "Keys", about: "Every request needs one once there is one, in every protocol; only liveness needs none.",
          actions: [h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, onclick: () => add(isFirst, does) }, "New key")],
        }),
        card("All keys", after ? "Later ones" : "The oldest first.",
          table("Keys", ["Name", "Key", "State", "~Scopes", "Limits", "Last use", "Made", "Change"], page.items.map((one) => [
            [one.name, more(one.tenant && `tenant ${one.tenant}`), more([one.owner, one.note].filter(Boolean).join(": "))],
            [one.id, more(one.key)], [state(one.state), one.expires ? h("small", { class: "next" }, "until ", moment(one.expires)) : null], one.scopes.join(", "), limits(one.limits),
            one.last_use ? moment(one.last_use) : "–", [one.created ? moment(one.created) : "–", more(one.by && `by ${one.by}`)], one.state === "valid" ? changes(one, isRefused, does) : "–"]),
          { empty: isFirst ? "There are no keys yet, and requests need none." : "There are no more.", hidden: true, keys: page.items.map((one) => one.id) }),
          h("div", { class: "buttons" },
            after ? h("a", { class: "button", href: "#/keys" }, "First ones") : null,
            page.next ? h("a", { class: "button", href: `#/keys?after=${encodeURIComponent(page.next)}` }, "Later") : null)),
        card("Limits of tenants, models and the server", "They hold beside those of keys, whoever asks.",
          table("Limits", ["Of", "Name", "Limits", "Change"], held(declared ?? {}).map(([holder, name, rules]) => [
            holder, name || "–", limits(rules),
            h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, "aria-label": `Limits of ${holder} ${name}`.trim(), onclick: () => hold(holder, name, rules, does) }, "Limits")]),
          { empty: "None of them has limits.", keys: held(declared ?? {}).map(([holder, name]) => `${holder} ${name}`) }),
          h("div", { class: "buttons" }, ["tenant", "model", "server"].map((holder) =>
            h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, onclick: () => hold(holder, "", holder === "server" ? declared?.server : {}, does) }, `Limit a ${holder}`.replace("a server", "the server"))))),
      ];
    },
  };
}

/** Limits that are declared, as rows of holder, name and rules. */
const held = ({ server, tenants = {}, models = {} }) => [
  ...(server ? [["server", "", server]] : []),
  ...Object.entries(tenants).map(([name, rules]) => ["tenant", name, rules]), ...Object.entries(models).map(([name, rules]) => ["model", name, rules]),
];

const more = (text) => (text ? h("small", { class: "next" }, text) : null);

function limits(rules) {
  if (!rules) return "–";
  const rates = UNITS.filter(([name]) => rules[name]).map(([name, words]) => `${rules[name]} ${words}`);
  return [...rates, ...(rules.at_once ? [`${rules.at_once} at once`] : []), ...(rules.quotas ?? [])].join(", ");
}

const changes = (one, isRefused, does) => h("div", { class: "buttons" },
  h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, "aria-label": `Limits of ${one.name}`, onclick: () => limit(one, does) }, "Limits"),
  h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, "aria-label": `Edit ${one.name}`, onclick: () => edit(one, does) }, "Edit"),
  h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, "aria-label": `Rotate ${one.name}`, onclick: () => rotate(one, does) }, "Rotate"),
  h("button", { class: "danger", type: "button", "aria-haspopup": "dialog", disabled: isRefused, "aria-label": `Revoke ${one.name}`, onclick: () => revoke(one, does) }, "Revoke"));

const field = (label, attributes, about) => h("label", {}, label, h("input", attributes), about ? h("small", {}, about) : null);

/** Fields of limits, with those that there are; only keys have quotas. */
function limitFields(rules = {}, { hasQuotas = true } = {}) {
  return [h("div", { class: "fields" },
    UNITS.map(([name, words, example]) => field(`Limit of ${words}`, { name, value: rules[name] ?? "", maxlength: 32, placeholder: example })),
    field("At once", { name: "at_once", type: "number", min: 0, max: 1000000, value: rules.at_once, placeholder: "8" })),
  hasQuotas ? field("Quotas", { name: "quotas", value: (rules.quotas ?? []).join(", "), maxlength: 1000, placeholder: "10000/day, 1e6 tokens/month" }) : null];
}

/** The limits in a form; null = there are none. */
function limitsOf(values) {
  const rules = Object.fromEntries(UNITS.map(([name]) => [name, values[name].trim()]).filter(([, text]) => text));
  if (Number(values.at_once)) rules.at_once = Number(values.at_once);
  const quotas = (values.quotas ?? "").split(",").map((text) => text.trim()).filter(Boolean);
  if (quotas.length) rules.quotas = quotas;
  return Object.keys(rules).length ? rules : null;
}

const scopesOf = (values) => values.scopes.trim().split(/[\s,]+/);

function tellKey(made, words) {
  tellOnce(`The key of ${made.key.name}`, words, made.secret);
}

function add(isFirst, { announce, again }) {
  askReason({
    title: "A new key", verb: "Make", path: "/keys",
    about: isFirst ? "This is the first key: from then on every request needs one, this page as well: it goes on with this one, and later asks for it as the password. With the scope * it opens everything." : null,
    fields: [
      field("Name", { name: "name", required: true, maxlength: 128, autocomplete: "off", autofocus: true }, "The caller that gets it."),
      field("Scopes", { name: "scopes", required: true, value: isFirst ? "*" : "infer", maxlength: 4000 }, "As infer:resnet* read, with blanks between them."),
      h("div", { class: "fields" },
        field("Expires after", { name: "expires", maxlength: 16, placeholder: "90d" }), field("Tenant", { name: "tenant", maxlength: 128 }), field("Owner", { name: "owner", maxlength: 1000 }), field("Note", { name: "note", maxlength: 1000 })),
      limitFields(),
    ],
    body: (values) => ({
      name: values.name.trim(), scopes: scopesOf(values), expires: values.expires.trim() || "never", limits: limitsOf(values),
      tenant: values.tenant.trim(), owner: values.owner, note: values.note, reason: values.reason,
    }),
    done(made) {
      if (made.is_first) identity.set(identity.name, made.secret); // this page goes on with it
      announce("The key holds from now on.");
      again();
      tellKey(made, "Give it to its caller. It is not shown again.");
    },
  });
}

function rotate(one, { announce, again }) {
  askReason({
    title: `Rotate the key of ${one.name}?`, about: "A new key takes its place, with the same scopes and limits.", verb: "Rotate", path: at`/keys/${one.id}/rotate`,
    fields: [field("The old one is valid for", { name: "overlap", value: "24h", required: true, maxlength: 16, autofocus: true }, "As 24h, up to 30d; 0m ends it now.")],
    body: (values) => ({ overlap: values.overlap.trim(), reason: values.reason }),
    done(made) {
      announce("Both keys are valid for a while.");
      again();
      tellKey(made, "Give it to its caller in place of the old one. It is not shown again.");
    },
  });
}

function edit(one, { announce, again }) {
  askReason({
    title: `Edit the key of ${one.name}`, verb: "Keep", method: "PUT", path: at`/keys/${one.id}`,
    fields: [
      field("Scopes", { name: "scopes", required: true, value: one.scopes.join(" "), maxlength: 4000 }, "As infer:resnet* read, with blanks between them."),
      h("div", { class: "fields" },
        field("Expires after", { name: "expires", maxlength: 16, placeholder: one.expires ? "as it is" : "never" }, "As 90d from now on, or never."),
        field("Owner", { name: "owner", value: one.owner ?? "", maxlength: 1000 }), field("Note", { name: "note", value: one.note ?? "", maxlength: 1000 })),
    ],
    body: (values) => ({ scopes: scopesOf(values), expires: values.expires.trim() || null, owner: values.owner, note: values.note, reason: values.reason }),
    done() {
      announce("It holds from now on.");
      again();
    },
  });
}

function limit(one, { announce, again }) {
  askReason({
    title: `Limits of ${one.name}`, verb: "Keep", method: "PUT", path: at`/keys/${one.id}/limits`,
    fields: [limitFields(one.limits)],
    body: (values) => ({ limits: limitsOf(values), reason: values.reason }),
    done() {
      announce("The limits hold from now on.");
      again();
    },
  });
}

function hold(holder, name, rules, { announce, again }) {
  askReason({
    title: `Limits of ${holder === "server" ? "the server" : `a ${holder}`}`, verb: "Keep", method: "PUT", path: "/limits",
    fields: [
      holder === "server" ? null : field("Name", { name: "name", value: name, required: true, readonly: Boolean(name), maxlength: 300 }, "Or a pattern, in which * stands for any letters; each that matches has them for itself."),
      limitFields(rules ?? {}, { hasQuotas: false }),
    ],
    body: (values) => ({ holder, name: values.name?.trim() ?? "", limits: limitsOf(values), reason: values.reason }),
    done() {
      announce("The limits hold from now on.");
      again();
    },
  });
}

function revoke(one, { announce, again }) {
  askReason({
    title: `Revoke the key of ${one.name}?`, about: "Every server that has this key refuses it within a second, for good.", verb: "Revoke", kind: "danger", method: "DELETE",
    path: at`/keys/${one.id}`,
    done() {
      announce("It is revoked.");
      again();
    },
  });
}
