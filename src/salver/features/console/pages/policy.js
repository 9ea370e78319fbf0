// What the move of a model's alias sets off: written as JSON, checked by the server, with what it would see beside it.
import { Problem, at, send, tagOf } from "./api.js";
import { card, h, head } from "./dom.js";
import { askReason, needsRegistry } from "./dialogs.js";
import { METRICS, fields, foreseen, shown } from "./plan.js";
import * as traffic from "./traffic.js";

export function policy(name, { announce, draw }) {
  const path = at`/models/${name}`;
  let text = null; // what stands in the editor
  let metrics = METRICS; // of what stood there last and could be read
  let tag = ""; // of the model, when the editor was filled
  let edition = 0;
  let checked = null; // {text, answer} of the last check that went well
  let problem = "";
  const usual = async (model, rate) => (model.policy === "immediate" ? (await send("POST", "/plan", { traffic: { requests_per_second: rate || 10 } })).policy : model.policy);
  async function fill(model, rate) {
    tag = tagOf(path);
    text = ""; // once
    text = JSON.stringify(await usual(model, rate).catch(() => ({})), null, 2);
    [checked, problem] = [null, ""];
    edition += 1;
    draw();
  }
  async function check(event) {
    event.preventDefault();
    const given = new FormData(event.target);
    const written = given.get("policy");
    try {
      const policy = JSON.parse(written);
      const answer = await send("POST", "/plan", { traffic: { requests_per_second: Number(given.get("rate")), ...foreseen(metrics, given) }, policy });
      checked = { text: written, answer };
      problem = "";
      announce("It is a policy; what it would see is below.");
    } catch (error) {
      checked = null;
      problem = error instanceof SyntaxError ? `That is no JSON: ${error.message}.`
        : error instanceof Problem ? `${error.field ? `${error.field}: ` : ""}${error.message}` : "The server does not answer.";
    }
    draw();
  }
  const save = (body, words) => () => askReason({
    ...words, method: "PUT", path: `${path}/policy`, headers: tag ? { "if-match": tag } : {},
    body: (values) => ({ policy: body, reason: values.reason }),
    done() {
      announce("It is the policy of the model from now on.");
      location.hash = at`#/models/${name}`;
    },
  });
  return {
    needsRegistry: true,
    paths: () => [path, "/traffic"],
    learn(model, counts) {
      traffic.learn(counts);
      if (text == null) fill(model, traffic.rate(counts, name));
    },
    draw(server, model, counts) {
      if (!model) return needsRegistry("Policy");
      const isRefused = server.changes === "refused";
      const isFresh = checked?.text === text;
      metrics = metricsOf(text) ?? metrics;
      return [
        head({ crumb: [name, at`#/models/${name}`], title: `Policy of ${name}`, about: model.policy === "immediate"
          ? "An alias moves at once. With a policy its move begins a release, which is judged; the usual one stands below."
          : "The move of an alias begins a release, which is judged by this." }),
        card("Policy", null, h("form", { onsubmit: check, "data-key": `policy-${edition}` },
          h("label", {}, "JSON", h("textarea", { name: "policy", class: "code", rows: 18, spellcheck: "false", autocomplete: "off", required: true, "aria-invalid": problem ? "true" : false,
            "aria-describedby": problem ? "policy-problem" : false, oninput: (event) => { text = event.target.value; draw(); } }, text ?? "")),
          problem ? h("p", { class: "notice bad", role: "alert", id: "policy-problem" }, problem) : null,
          h("fieldset", {}, h("legend", {}, "Traffic"), h("div", { class: "fields" },
            h("label", {}, "Requests per second", h("input", { name: "rate", type: "number", step: "any", min: 0.001, required: true, value: traffic.rate(counts, name) || 10 })),
            fields(metrics))),
          h("div", { class: "buttons" }, h("button", { class: isFresh ? false : "main", type: "submit" }, "Check it"),
            h("button", { class: isFresh ? "main" : false, type: "button", "aria-haspopup": "dialog", disabled: isRefused || !isFresh,
              onclick: isFresh ? save(checked.answer.policy, { title: `Judge releases of ${name} by this?`, verb: "Save" }) : null }, "Save it"),
            h("button", { type: "button", onclick: () => fill(model, traffic.rate(counts, name)) }, "Begin anew"),
            model.policy === "immediate" ? null : h("button", { class: "danger", type: "button", "aria-haspopup": "dialog", disabled: isRefused,
              onclick: save("immediate", { title: `Let aliases of ${name} move at once?`, verb: "Move at once", kind: "danger", about: "Nothing is judged any more before requests follow an alias." }) }, "Judge no more")),
          isFresh ? null : h("p", { class: "hint" }, "It can be saved once this text is checked."))),
        checked ? [isFresh ? null : h("p", { class: "notice warn" }, "What stands below is of the text that was checked last."), shown(checked.answer)] : null,
      ];
    },
  };
}

/** Of a policy as text: its metrics, the usual ones, or undefined where it cannot be read. */
function metricsOf(text) {
  try {
    const given = JSON.parse(text).metrics ?? METRICS;
    return Array.isArray(given) && given.every((metric) => typeof metric?.name === "string") ? given : undefined;
  } catch {
    return undefined;
  }
}
