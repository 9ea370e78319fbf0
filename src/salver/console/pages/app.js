// Which page is meant, and how does the server stand?
import { get, identity, poll } from "./api.js";
import { h, morph } from "./dom.js";
import { askIdentity } from "./dialogs.js";
import { audit } from "./audit.js";
import { model } from "./model.js";
import { models } from "./models.js";
import { plan } from "./plan.js";
import { policy } from "./policy.js";
import { release } from "./release.js";
import { releases } from "./releases.js";
import { version } from "./version.js";
import { webhooks } from "./webhooks.js";

const main = document.getElementById("main");
const link = document.getElementById("link");
const news = document.getElementById("news");
const ROUTES = [
  [/^#?\/?$/, models, "#/"],
  [/^#\/models\/([^/]+)$/, model, "#/"],
  [/^#\/models\/([^/]+)\/policy$/, policy, "#/"],
  [/^#\/models\/([^/]+)\/versions\/([^/]+)$/, version, "#/"],
  [/^#\/releases$/, releases, "#/releases"],
  [/^#\/releases\/([^/]+)$/, release, "#/releases"],
  [/^#\/plan$/, plan, "#/plan"],
  [/^#\/audit$/, audit, "#/audit"],
  [/^#\/webhooks$/, webhooks, "#/webhooks"],
];

let polling = null;
let server = null;

/** Say it to those who do not see it. */
export function announce(text) {
  news.textContent = "";
  requestAnimationFrame(() => { news.textContent = text; });
}

function tell(words, kind) {
  const shown = link.querySelector(".words");
  if (shown.textContent !== words) shown.textContent = words;
  link.className = `link ${kind}`;
}

function show(...children) {
  morph(main, h("main", { id: "main", tabindex: "-1" }, children));
  document.title = `${main.querySelector("h1")?.textContent ?? "Console"} · Salver`;
}

/** The page that an address means, the names in it, and its tab; undefined = there is none. */
function meant(place) {
  try {
    const names = (match) => match.slice(1).map(decodeURIComponent);
    return ROUTES.map(([pattern, page, tab]) => [pattern.exec(place), page, tab]).filter(([match]) => match)
      .map(([match, page, tab]) => [names(match), page, tab])[0];
  } catch {
    return undefined; // a percent sign with nothing behind it
  }
}

async function open(event) {
  polling?.stop();
  const [place, query = ""] = (location.hash || "#/").split(/\?(.*)/s);
  const found = meant(place);
  for (const anchor of document.querySelectorAll(".bar nav a")) {
    if (anchor.getAttribute("href") === found?.[2]) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  main.replaceChildren(h("p", { class: "hint" }, "Loading …"));
  if (!found) {
    show(h("h1", { tabindex: "-1" }, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "All models")));
    return;
  }
  const page = found[1](...found[0], { announce, again: () => polling.again(), draw, query: new URLSearchParams(query) });
  let values = [];
  let first = true;
  function draw() {
    if (polling !== mine) return;
    show(page.draw(server, ...values));
    if (first && event) main.querySelector("h1")?.focus();
    first = false;
  }
  const mine = poll(async () => {
    const told = await get("/server");
    const isBlind = page.needsRegistry && !told.has_registry;
    const first = isBlind ? [] : await Promise.all(page.paths(told).map(get));
    const more = await Promise.all((page.more?.(...first) ?? []).map(get));
    return [told, ...first, ...more];
  }, page.seconds ?? 2, {
    tell(words, kind) {
      tell(words, kind);
      if (kind === "away" && first) show(h("h1", { tabindex: "-1" }, "The server does not answer"), h("p", { class: "notice warn" }, `${words}.`));
    },
    done([told, ...rest]) {
      server = told;
      values = rest;
      if (rest.length) page.learn?.(...rest);
      draw();
    },
    failed(problem) {
      show(h("h1", { tabindex: "-1" }, problem.status === 404 ? "That is not there" : "The server refuses"),
        h("p", { class: "notice bad" }, problem.message), h("p", {}, h("a", { href: "#/" }, "All models")));
    },
  });
  polling = mine;
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
const theme = document.getElementById("theme");
theme.setAttribute("aria-pressed", dark());
theme.addEventListener("click", () => {
  const next = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  theme.setAttribute("aria-pressed", next === "dark");
  try {
    localStorage.setItem("salver-theme", next);
  } catch {
    // then it holds until the page is left
  }
});
const who = document.getElementById("identity");
const name = () => { who.textContent = identity.name || "Who am I"; };
who.addEventListener("click", () => askIdentity(server).then(name));
name();
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // a hash is a page here
  main.focus();
});
addEventListener("hashchange", open);
open();
