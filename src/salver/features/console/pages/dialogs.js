// What is asked of a person before something changes.
import { Problem, identity, send } from "./api.js";
import { h } from "./dom.js";

function dialog(title, ...children) {
  const id = "dialog-title";
  const box = h("dialog", { "aria-labelledby": id }, h("form", { method: "dialog" }, h("h2", { id }, title), ...children));
  document.body.append(box);
  box.addEventListener("close", () => {
    box.remove();
    if (document.activeElement === document.body) document.querySelector("h1")?.focus(); // what it was opened by is gone
  });
  box.showModal();
  return box;
}

const buttons = (verb, kind = "main") => h("div", { class: "buttons" },
  h("button", { class: kind, type: "submit", value: "yes" }, verb),
  h("button", { type: "button", onclick: (event) => event.target.closest("dialog").close() }, "Cancel"));

/** Who changes things, and with which token. */
export function askIdentity(server) {
  const needsToken = server?.changes === "token" || server?.has_registry;
  const name = h("input", { name: "name", autocomplete: "username", maxlength: 100, value: identity.name });
  const token = h("input", { name: "token", type: "password", autocomplete: "off", value: identity.token });
  const box = dialog("Who are you?",
    h("label", {}, "Name", name, h("small", {}, "It stands in the audit beside each change.")),
    needsToken ? h("label", {}, "Token", token, h("small", {}, "A key, the server's token or one of the registry's; forgotten when this tab closes.")) : null,
    buttons("Keep"));
  return new Promise((resolve) => box.addEventListener("close", () => {
    if (box.returnValue === "yes") identity.set(name.value.trim(), needsToken ? token.value.trim() : identity.token);
    resolve();
  }));
}

/**
 * Ask for a reason, do it, and stay open with the problem if it does not go.
 * @param still tells in words why it may not be done any more, if so; `fields` are further elements of the form, `body` makes the request's body of the form's values, or of its FormData
 */
export function askReason({ title, about, verb, kind, path, method = "POST", still = () => "", fields = [], body = (values) => ({ reason: values.reason }), headers, done }) {
  const problem = h("p", { class: "notice bad", role: "alert", hidden: true });
  const token = h("label", { hidden: true }, "Token", h("input", { name: "token", type: "password", autocomplete: "off" }), h("small", {}, "A key, the server's token or one of the registry's; forgotten when this tab closes."));
  const reason = h("textarea", { name: "reason", required: true, maxlength: 1000, autofocus: !fields.some(Boolean) });
  const box = dialog(title, about ? h("p", { class: "hint" }, about) : null, ...fields,
    h("label", {}, "Why?", reason, h("small", {}, "It is kept in the audit.")), problem, token, buttons(verb, kind));
  const form = box.querySelector("form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const submit = form.querySelector("[type=submit]");
    submit.disabled = true;
    let answer;
    try {
      const moved = still();
      if (moved) throw new Problem(409, { detail: moved });
      const values = Object.fromEntries(new FormData(form));
      if (!token.hidden) identity.set(identity.name, values.token.trim());
      answer = await send(method, typeof path === "function" ? path(values) : path, body(values, new FormData(form)), headers);
    } catch (error) {
      problem.textContent = error instanceof Problem ? error.message : "The server does not answer. Nothing is known to have changed.";
      problem.hidden = false;
      submit.disabled = false;
      if (!box.open) { // it was closed meanwhile; whoever asked for something hears that it did not go
        document.body.append(box);
        box.showModal();
      }
      if (!box.contains(document.activeElement)) submit.focus(); // a button that is disabled loses it
      if (error.status === 401) {
        token.hidden = false;
        token.querySelector("input").focus();
      }
      return;
    }
    box.close("yes");
    done(answer);
  });
}

/** Show something that is not shown again. */
export function tellOnce(title, about, text) {
  const field = h("input", { readonly: true, value: text, class: "mono", autofocus: true, onfocus: (event) => event.target.select() });
  dialog(title, h("p", { class: "hint" }, about), h("label", {}, title, field),
    h("div", { class: "buttons" }, h("button", { class: "main", type: "submit" }, "I have it")));
}

/** What a page shows of a server that keeps nothing. */
export function needsRegistry(title) {
  return [h("h1", { tabindex: "-1" }, title),
    h("p", { class: "hint" }, "This server has no registry, which keeps models, releases and the audit. Start it with ", h("code", {}, "--registry FOLDER"), ".")];
}
