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

const FILL = { BYTES: ["text", "'text'"], BOOL: [false, "False"] };

/** One word of a shell, whatever is in it. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function sample(name, inputs) {
  const url = `${location.origin}/v2/models/${encodeURIComponent(name)}/infer`;
  const shapes = inputs.map(({ shape }) => shape.map((extent) => Math.max(1, Number(extent))));
  const sizes = shapes.map((shape) => shape.reduce((size, extent) => size * extent, 1));
  let text;
  if (Math.max(...sizes) <= MOST_NUMBERS) {
    const body = { inputs: inputs.map(({ name: input, datatype }, index) => ({
      name: input, datatype, shape: shapes[index], data: Array(sizes[index]).fill(FILL[datatype]?.[0] ?? 0) })) };
    text = `curl ${url} -d ${quoted(JSON.stringify(body))}`;
  } else {
    const made = inputs.map(({ name: input, datatype }, index) =>
      `dict(name=${JSON.stringify(input)}, datatype="${datatype}", shape=${JSON.stringify(shapes[index])}, data=[${FILL[datatype]?.[1] ?? 0}]*${sizes[index]})`);
    text = `python3 -c ${quoted(`import json; print(json.dumps(dict(inputs=[${made.join(", ")}])))`)} | curl ${url} -d @-`;
  }
  return card("Sample request", "Values are placeholders.",
    h("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "Sample request" }, text));
}
