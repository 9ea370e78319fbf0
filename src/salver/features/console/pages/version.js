// One version: what it is, what it was made from, and what its owner says of it. None of that changes.
import { at } from "./api.js";
import { bytes, card, digits, facts, h, head, moment, table } from "./dom.js";
import { needsRegistry } from "./dialogs.js";
import { pairs } from "./model.js";

export function version(name, number) {
  return {
    needsRegistry: true,
    seconds: 10,
    paths: () => [at`/models/${name}/versions/${number}`],
    draw(server, one) {
      if (!one) return needsRegistry("Version");
      const { framework, format, signature, resources, performance, notices } = one.description;
      const measured = { ...one.metrics, ...performance, ...resources };
      return [
        head({ crumb: [name, at`#/models/${name}`], title: `${name}: version ${one.number}`, about: one.why ? `${one.by}: “${one.why}”` : `Pushed by ${one.by}.` }),
        card("What it is", one.removed == null ? null : "Its files are removed.", facts([
          ["Framework", format || framework || "–"], ["Size", bytes(one.size), one.files.length === 1 ? "in one file" : `in ${one.files.length} files`], ["Pushed", moment(one.created), `by ${one.by}`],
          ["Aliases", one.aliases.join(", ") || "–"], one.source ? ["From", h("code", {}, one.source)] : null]),
          h("p", {}, h("code", {}, one.digest)),
          Object.keys(one.tags).length ? pairs(one.tags) : null,
          notices.length ? h("ul", { class: "notice warn reasons" }, notices.map((text) => h("li", {}, text))) : null),
        one.card ? card("Card", "As its owner wrote it.", h("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "Card" }, one.card)) : null,
        card("Signature", signature.batched ? "Requests may be batched." : null, table("Tensors", ["Tensor", "Is", "Type", "Shape"],
          [["inputs", "input"], ["outputs", "output"]].flatMap(([side, word]) => (signature[side] ?? []).map((tensor) => [
            tensor.name, word, tensor.datatype, h("code", {}, `[${(tensor.shape ?? []).map((extent) => (extent < 0 ? "any" : extent)).join(", ")}]`)])),
          { empty: "It was not loaded when it was pushed.", hidden: true })),
        Object.keys(measured).length ? card("Measured", null, table("Numbers", ["Name", "Value"],
          Object.entries(measured).sort().map(([key, value]) => [key, typeof value === "number" ? digits(value, 6) : h("code", {}, JSON.stringify(value))]), { hidden: true })) : null,
        one.parents.length ? card("Made from", null, table("Origins", ["What", "Which"], one.parents.map((each) => [each.kind, each.reference]), { hidden: true })) : null,
        card("Files", null, table("Files", ["Path", "#Size", "SHA-256"], one.files.map((file) => [file.path, bytes(file.size), h("code", {}, file.sha256)]), { empty: "There are none.", hidden: true })),
      ];
    },
  };
}
