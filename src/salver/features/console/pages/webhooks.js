// Who is told of changes, and what did they not hear?
import { Problem, at, send } from "./api.js";
import { card, count, h, head, moment, short, state, table } from "./dom.js";
import { ACTIONS } from "./audit.js";
import { askReason, needsRegistry, tellOnce } from "./dialogs.js";

const STATES = [["", "all"], ["given_up", "given up"], ["failing", "failing"], ["waiting", "waiting"], ["told", "told"]];

export function webhooks({ announce, again, draw, query }) {
  const want = { state: query.get("state") ?? "", webhook: query.get("webhook") ?? "", before: query.get("before") ?? "" };
  const link = (more) => {
    const whole = Object.entries({ ...want, ...more }).filter(([, value]) => value);
    return `#/webhooks${whole.length ? `?${new URLSearchParams(whole)}` : ""}`;
  };
  let problem = "";
  async function tellAgain(one) {
    try {
      await send("POST", at`/deliveries/${one.id}/again`);
      problem = "";
      announce(`${one.action} is sent again.`);
      again();
    } catch (error) {
      problem = error instanceof Problem ? error.message : "The server does not answer. Nothing is known to have changed.";
      draw();
    }
  }
  return {
    needsRegistry: true,
    seconds: 5,
    paths: () => ["/webhooks", `/deliveries?limit=50&${new URLSearchParams(Object.entries(want).filter(([, value]) => value))}`, "/models?limit=1000"],
    draw(server, hooks, told, models) {
      if (!hooks) return needsRegistry("Webhooks");
      const isRefused = server.changes === "refused";
      const names = new Map(hooks.items.map((one) => [one.id, one.url]));
      return [
        head({
          title: "Webhooks", about: "Receivers that are told of changes: each call is signed, and tried again for about a day.",
          actions: [h("button", { type: "button", "aria-haspopup": "dialog", disabled: isRefused, onclick: () => add(models.items, { announce, again }) }, "New webhook")],
        }),
        card("Receivers", hooks.items.length ? `${count(hooks.items.length)} now` : null, table("Receivers",
          ["Receiver", "Id", "Model", "~Events", "Since", "By", "Change"], hooks.items.map((one) => [
            one.url, h("a", { href: link({ webhook: one.id, before: "" }) }, one.id), one.model || "all", one.events.join(", ") || "all", moment(one.created), one.by,
            h("button", { class: "danger", type: "button", "aria-haspopup": "dialog", disabled: isRefused, "aria-label": `Remove ${one.id}`, onclick: () => remove(one, { announce, again }) }, "Remove")]),
          { empty: "Nobody is told yet.", hidden: true, keys: hooks.items.map((one) => one.id) })),
        card("Deliveries", want.webhook ? `To ${names.get(want.webhook) ?? want.webhook}` : want.before ? "Older ones" : "The newest first.",
          h("nav", { "aria-label": "Deliveries by state" }, h("ul", { class: "buttons" }, STATES.map(([word, words]) => h("li", {},
            h("a", { class: "button", href: link({ state: word, before: "" }), "aria-current": want.state === word && "true" }, words))))),
          problem ? h("p", { class: "notice bad", role: "alert" }, problem) : null,
          deliveries(told.items, names, tellAgain, isRefused),
          h("div", { class: "buttons" },
            want.webhook ? h("a", { class: "button", href: link({ webhook: "", before: "" }) }, "Of all receivers") : null,
            want.before ? h("a", { class: "button", href: link({ before: "" }) }, "Newest") : null,
            told.next ? h("a", { class: "button", href: link({ before: told.next }) }, "Older") : null)),
      ];
    },
  };
}

function deliveries(items, names, tellAgain, isRefused) {
  return table("Deliveries", ["When", "Change", "State", "Again", "Receiver", "What", "~Problem"], items.map((one) => [
    moment(one.created), one.action, [state(one.state), one.attempts > 1 ? ` ${one.attempts} tries` : null],
    names.has(one.webhook) ? h("button", { type: "button", disabled: isRefused, "aria-label": `Tell ${one.action} again`, onclick: () => tellAgain(one) }, "Tell again") : "–",
    names.get(one.webhook) ?? "removed", [one.model ? [h("a", { href: at`#/models/${one.model}` }, one.model), " "] : null, short(one.subject)],
    [one.error || "–", one.error && one.next ? h("small", { class: "next" }, "next try ", moment(one.next)) : null],
  ]), { empty: "There are none of these.", hidden: true, keys: items.map((one) => one.id) });
}

function add(models, { announce, again }) {
  askReason({
    title: "A new webhook", verb: "Add", path: "/webhooks",
    fields: [
      h("label", {}, "URL", h("input", { name: "url", type: "url", required: true, maxlength: 2000, placeholder: "https://" }), h("small", {}, "Takes POST requests. Whoever looks here later sees its host alone.")),
      h("label", {}, "Model", h("select", { name: "model" }, h("option", { value: "" }, "all"), models.map((one) => h("option", {}, one.name)))),
      h("label", {}, "Events", h("select", { name: "events", multiple: true, size: 5 }, ACTIONS.map((word) => h("option", {}, word))), h("small", {}, "None chosen: all.")),
    ],
    body: (values, form) => ({ url: values.url, model: values.model, events: form.getAll("events"), reason: values.reason }),
    done(made) {
      announce("The webhook is told from now on.");
      again();
      tellOnce("Its secret", "Give it to the receiver, which checks signatures with it. It is not shown again.", made.secret);
    },
  });
}

function remove(one, { announce, again }) {
  askReason({
    title: "Remove this webhook?", about: `${one.url} is told no more, nor of what it still waits for.`, verb: "Remove", kind: "danger", method: "DELETE",
    path: at`/webhooks/${one.id}`,
    done() {
      announce("It is removed.");
      again();
    },
  });
}
