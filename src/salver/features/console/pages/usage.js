// What keys have used, by model.
import { maybe } from "./api.js";
import { bytes, card, count, duration, h, head, table } from "./dom.js";

const AT_ONCE = 200;
const COLUMNS = ["Key", "Model", "#Requests", "#Rows", "#Tokens", "#Received", "#Sent", "#In the model", "#Refused"];
const SPANS = [["1", "A day"], ["7", "A week"], ["31", "A month"], ["", "All"]];

export function usage({ query }) {
  const days = query.get("days") ?? "7";
  const after = query.get("after") ?? "";
  const since = days ? Math.floor(Date.now() / 1000 - Number(days) * 86400) : 0;
  const here = (more) => `#/usage?${new URLSearchParams(more)}`;
  return {
    seconds: 10,
    paths: () => [maybe(`/usage?${new URLSearchParams({ by: "key,model", since, limit: AT_ONCE, after })}`)],
    draw(server, page) {
      const title = head({ title: "Usage", about: "What each key has used, by model, on all servers of the ledger.", actions: [] });
      if (!page) return [title, h("p", { class: "notice" }, "Usage is counted by key, and this server has no keys.")];
      return [
        title,
        card("By key and model", "Whole hours, up to now.",
          h("div", { class: "buttons" }, SPANS.map(([value, words]) =>
            h("a", { class: "button", href: here({ days: value }), "aria-current": value === days ? "true" : null }, words))),
          table("Usage by key and model", COLUMNS, page.items.map((one) => [
            one.key, one.model || "–", count(one.requests), count(one.rows), count(one.prompt_tokens + one.answer_tokens),
            bytes(one.bytes_in), bytes(one.bytes_out), duration(one.compute_seconds), count(one.refusals)]),
          { empty: "Nothing was used in this time.", hidden: true, keys: page.items.map((one) => `${one.key} ${one.model}`) }),
          page.next ? h("div", { class: "buttons" }, h("a", { class: "button", href: here({ days, after: page.next }) }, "Later")) : null),
      ];
    },
  };
}
