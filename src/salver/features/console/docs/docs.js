// The API as a page: each model with forms that ask it, by raw inputs and by tensors, then every route of the description.

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

/** A body with its content type; a form tells its own, with the boundary. */
async function ask(path, { body, type }) {
  const begun = performance.now();
  const reply = await fetch(path, { method: "POST", headers: type ? { "content-type": type } : {}, body });
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

/** A button that sends what make() returns, and the answer below it. */
function sender(path, make) {
  const status = h("p", { role: "status" });
  const answer = h("pre", { tabindex: "0", "aria-label": "Answer" });
  answer.hidden = true;
  const button = h("button", { type: "button", onclick: send }, "Send");

  async function send() {
    button.disabled = true;
    status.className = "";
    status.textContent = "Waiting…";
    try {
      const found = await ask(path, make());
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

  return [button, status, answer];
}

function request(id, example) {
  const shown = example === undefined ? "" : JSON.stringify(example);
  return h("textarea", { id, spellcheck: "false" }, shown);
}

function tensorForm(path, operation) {
  const { inputs } = operation["x-salver-model"];
  const id = `body-${path}`;
  const area = request(id, operation.requestBody.content["application/json"].example);
  if (!area.value) area.placeholder = "Empty = zeros of the right shape, which would be too many to show here.";
  const make = () => ({ body: area.value.trim() || JSON.stringify(emptyBody(inputs)), type: "application/json" });
  return [h("label", { for: id }, "Request"), area, ...sender(path, make)];
}

/** What files have no type of their own, or one that differs between systems. */
const TYPES = {
  csv: "text/csv", tsv: "text/tab-separated-values", txt: "text/plain", json: "application/json",
  parquet: "application/vnd.apache.parquet", arrow: "application/vnd.apache.arrow.stream",
};
const ENDINGS = Object.fromEntries(Object.entries(TYPES).map(([ending, type]) => [type, `.${ending}`]));

function typeOf(file) {
  return TYPES[file.name.split(".").pop().toLowerCase()] ?? (file.type || "application/octet-stream");
}

/** Raw inputs: a file as it is, with parameters as a form, or JSON. */
function rawForm(path, operation) {
  const { content } = operation.requestBody;
  const isMedia = (type) => /^(image|audio)\//.test(type);
  const taken = Object.keys(content).filter((type) => ENDINGS[type] || isMedia(type));
  const [id, fileId, moreId] = ["raw", "file", "parameters"].map((part) => `${part}-${path}`);
  const area = request(id, content["application/json"].example);
  const file = h("input", { id: fileId, type: "file" });
  if (taken.some(isMedia) || !content["application/octet-stream"]) file.accept = taken.map((type) => ENDINGS[type] ?? type).join();
  const more = h("input", { id: moreId, placeholder: '{"top_k": 2}', spellcheck: "false" });
  const clear = h("button", { type: "button", class: "plain", onclick: () => (file.value = "") }, "No file");

  function make() {
    const [chosen] = file.files;
    if (!chosen) return { body: area.value, type: "application/json" };
    if (!more.value.trim()) return { body: chosen, type: typeOf(chosen) };
    const body = new FormData();
    body.append("data", new File([chosen], chosen.name, { type: typeOf(chosen) }));
    body.append("parameters", more.value);
    return { body };
  }

  const hasParameters = content["multipart/form-data"]?.schema.properties.parameters;
  const parameters = hasParameters ? [h("label", { for: moreId }, "Parameters of the file"), more] : [];
  return [h("label", { for: id }, "Request"), area, h("label", { for: fileId }, "or a file"),
    h("div", { class: "row" }, file, clear), ...parameters, ...sender(path, make)];
}

function model(name, { raw, infer }) {
  const parts = [h("h2", null, name)];
  if (raw) {
    const [path, operation] = raw;
    parts.push(h("div", { "data-form": "raw" }, h("p", null, h("code", null, `POST ${path}`), ` ${operation.summary}`),
      rawForm(path, operation)));
  }
  if (infer) {
    const [path, operation] = infer;
    const { inputs, outputs } = operation["x-salver-model"];
    parts.push(h("div", { "data-form": "tensors" }, h("p", null, h("code", null, `POST ${path}`)), tensors("Inputs", inputs),
      tensors("Outputs", outputs), tensorForm(path, operation)));
  }
  return h("section", { "data-model": name }, parts);
}

/** The operations of each model: for raw inputs, and for tensors. */
function ofModels(all) {
  const found = new Map();
  for (const [path, { post }] of all) {
    const [kind, told] = post?.["x-salver-raw"] ? ["raw", post["x-salver-raw"]] : ["infer", post?.["x-salver-model"]];
    if (told) found.set(told.name, { ...found.get(told.name), [kind]: [path, post] });
  }
  return found;
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
  const models = [...ofModels(all)];
  const rest = Object.fromEntries(all.filter(([, verbs]) => !verbs.post?.["x-salver-raw"] && !verbs.post?.["x-salver-model"]));
  const none = h("p", { class: "hint" }, "No model is ready. Reload the page when one is.");
  main.replaceChildren(...(models.length ? models.map(([name, operations]) => model(name, operations)) : [none]), routes(rest));
}

show().catch((error) => main.replaceChildren(h("p", { class: "bad", role: "alert" }, error.message)));
