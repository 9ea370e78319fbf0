// A request that a model answers, to be pasted into a terminal.
import { card, h } from "./dom.js";

const MOST_NUMBERS = 64; // more are made by a line of Python

/** The inputs of a model as its metadata has them; null = no version of it answers, or it takes no tensors. */
export async function signature(name) {
  const reply = await fetch(`/v2/models/${encodeURIComponent(name)}`, { cache: "no-store", signal: AbortSignal.timeout(15000) });
  const { inputs = [] } = reply.ok ? await reply.json() : {};
  const isJson = inputs.every(({ datatype }) => !["FP16", "BF16"].includes(datatype)); // which have no form in JSON
  return inputs.length && isJson ? inputs : null;
}

const FILL = { BYTES: '"text"', BOOL: "false" };

/** One word of a shell, whatever is in it. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A tensor of one value, nested as its shape is: in JSON, or as an expression of Python. */
function filled(value, shape, isPython) {
  return shape.reduceRight((inner, extent) => (isPython ? `[${inner}]*${extent}` : `[${Array(extent).fill(inner).join(",")}]`), value);
}

export function sample(name, inputs) {
  const url = `${location.origin}/v2/models/${encodeURIComponent(name)}/infer`;
  const shapes = inputs.map(({ shape }) => shape.map((extent) => Math.max(1, Number(extent))));
  const isLong = shapes.some((shape) => shape.reduce((size, extent) => size * extent, 1) > MOST_NUMBERS);
  const body = `{${inputs.map(({ name: input, datatype }, index) =>
    `${JSON.stringify(input)}: ${filled(isLong ? (FILL[datatype] ?? "0").replace("false", "False") : FILL[datatype] ?? "0", shapes[index], isLong)}`).join(", ")}}`;
  const text = isLong ? `python3 -c ${quoted(`import json; print(json.dumps(${body}))`)} | curl ${url} -d @-` : `curl ${url} -d ${quoted(body)}`;
  return card("Sample request", "Values are placeholders.",
    h("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "Sample request" }, text),
    h("p", {}, h("a", { href: "/docs/" }, "Try it in the browser")));
}
