// The API as a page: each model with its tensors and a form that asks it, then every route of the description.

const MOST_SHOWN = 200_000; // letters of an answer
const main = document.querySelector("main");

/** An element: h("p", {class: "hint"}, "text", child). */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.flat());
  return element;
}

function table(headings, rows) {
  const head = h("tr", null, headings.map((text) => h("th", { scope: "col" }, text)));
  const body = rows.map((cells) => h("tr", null, cells.map((cell) => h("td", null, cell))));
  return h("div", { class: "scroll" }, h("table", null, h("thead", null, head), h("tbody", null, body)));
}

function tensors(title, specs) {
  const rows = specs.map((spec) => [
    h("code", null, spec.name), spec.datatype, h("code", null, JSON.stringify(spec.shape)), spec.optional ? "optional" : "",
  ]);
  return [h("h3", null, title), table(["name", "datatype", "shape (-1 = any)", ""], rows)];
}

/** Zeros of a shape: what a body holds that is too large to be shown. */
function zeros([extent, ...rest], value) {
  return extent === undefined ? value : Array(Math.max(extent, 1)).fill(zeros(rest, value));
}

function emptyBody(inputs) {
  const zero = { BYTES: "text", BOOL: false };
  return Object.fromEntries(inputs.map((spec) => [spec.name, zeros(spec.shape, zero[spec.datatype] ?? 0)]));
}

async function ask(path, body) {
  const begun = performance.now();
  const reply = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body });
  const text = await reply.text();
  return { status: reply.status, text, ms: performance.now() - begun };
}

function pretty(text) {
  try {
    text = JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    // not JSON: as it is
  }
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
}

function form(path, operation) {
  const { inputs } = operation["x-salver-model"];
  const example = operation.requestBody.content["application/json"].example;
  const shown = example === undefined ? "" : JSON.stringify(example);
  const id = `body-${path}`;
  const area = h("textarea", { id, spellcheck: "false" }, shown);
  if (!shown) area.placeholder = "Empty = zeros of the right shape, which would be too many to show here.";
  const status = h("p", { role: "status" });
  const answer = h("pre", { tabindex: "0", "aria-label": "Answer" });
  answer.hidden = true;
  const button = h("button", { type: "button", onclick: send }, "Send");

  async function send() {
    button.disabled = true;
    status.className = "";
    status.textContent = "Waiting…";
    try {
      const found = await ask(path, area.value.trim() || JSON.stringify(emptyBody(inputs)));
      status.textContent = `${found.status} in ${found.ms.toFixed(1)} ms`;
      status.className = found.status < 400 ? "" : "bad";
      answer.textContent = pretty(found.text);
      answer.hidden = false;
    } catch (error) {
      status.textContent = `The server does not answer: ${error.message}`;
      status.className = "bad";
    } finally {
      button.disabled = false;
    }
  }

  return [h("label", { for: id }, "Request"), area, button, status, answer];
}

function model(path, operation) {
  const { name, inputs, outputs } = operation["x-salver-model"];
  return h("section", { "data-model": name }, h("h2", null, name), h("p", null, h("code", null, `POST ${path}`)),
    tensors("Inputs", inputs), tensors("Outputs", outputs), form(path, operation));
}

function routes(paths) {
  const rows = Object.entries(paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, told]) => [verb.toUpperCase(), h("code", null, path), told.summary ?? ""]));
  return h("section", { class: "routes" }, h("h2", null, "Routes"), table(["", "path", "what it does"], rows));
}

async function show() {
  const reply = await fetch("/openapi.json");
  if (!reply.ok) throw new Error(`/openapi.json: ${reply.status}`);
  const { paths } = await reply.json();
  const all = Object.entries(paths);
  const models = all.filter(([, verbs]) => verbs.post?.["x-salver-model"]);
  const rest = Object.fromEntries(all.filter(([, verbs]) => !verbs.post?.["x-salver-model"]));
  const none = h("p", { class: "hint" }, "No model is ready. Reload the page when one is.");
  main.replaceChildren(...(models.length ? models.map(([path, verbs]) => model(path, verbs.post)) : [none]), routes(rest));
}

show().catch((error) => main.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message)));
