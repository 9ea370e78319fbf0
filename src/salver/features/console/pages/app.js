// Which page is meant, and how does the server stand?
import { get, identity, poll } from "./api.js";
import { h, morph, timeOfDay } from "./dom.js";
import { askIdentity } from "./dialogs.js";
import { audit } from "./audit.js";
import { pointAgain } from "./chart.js";
import { keys } from "./keys.js";
import { model } from "./model.js";
import { models } from "./models.js";
import { plan } from "./plan.js";
import { policy } from "./policy.js";
import { release } from "./release.js";
import { releases } from "./releases.js";
import { routing } from "./routing.js";
import { usage } from "./usage.js";
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
  [/^#\/routing$/, routing, "#/routing"],
  [/^#\/releases$/, releases, "#/releases"],
  [/^#\/releases\/([^/]+)$/, release, "#/releases"],
  [/^#\/plan$/, plan, "#/plan"],
  [/^#\/audit$/, audit, "#/audit"],
  [/^#\/webhooks$/, webhooks, "#/webhooks"],
  [/^#\/keys$/, keys, "#/keys"],
  [/^#\/usage$/, usage, "#/usage"],
];

let polling = null;
let server = null;
let stale = ""; // that what is shown is old, in words
let isNew = false; // somebody came here, and is to be told where that is

/** Say it, to those who see it and to those who do not. */
export function announce(text) {
  news.replaceChildren();
  requestAnimationFrame(() => news.replaceChildren(h("span", {}, text)));
}

function tell(words, kind) {
  const shown = link.querySelector(".words");
  if (shown.textContent !== words) shown.textContent = words;
  link.className = `link ${kind}`;
}

function show(...children) {
  const before = document.activeElement;
  const isHere = before !== main && main.contains(before);
  morph(main, h("main", { id: "main", tabindex: "-1" },
    stale ? h("p", { class: "notice warn stale", "data-key": "stale" }, stale) : null,
    server?.has_registry && server.changes === "refused" ? h("p", { class: "hint", "data-key": "refused" },
      "Here one may only look: other machines reach this port, and the server has no token for changes (", h("code", {}, "--api-token-file"), ").") : null,
    children));
  pointAgain(main);
  const title = main.querySelector("h1");
  document.title = `${title?.textContent ?? "Console"} · Salver`;
  if (isNew || (isHere && !main.contains(document.activeElement))) title?.focus(); // what had it is gone
  isNew = false;
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
  stale = "";
  isNew = Boolean(event);
  if (!found) {
    show(h("h1", { tabindex: "-1" }, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "All models")));
    return;
  }
  const page = found[1](...found[0], { announce, again: () => polling.again(), draw, query: new URLSearchParams(query) });
  let values = null;
  let heard = 0;
  function draw() {
    if (polling === mine && values) show(page.draw(server, ...values));
  }
  const mine = poll(async () => {
    const told = await get("/server");
    const isBlind = page.needsRegistry && !told.has_registry;
    const ask = (path) => (typeof path === "function" ? path() : get(path));
    return [told, ...(isBlind ? [] : await Promise.all(page.paths(told).map(ask)))];
  }, () => page.seconds ?? 2, {
    tell(trouble, pause) {
      tell(trouble ? "No answer" : "Live", trouble ? "away" : "live");
      stale = trouble && `${trouble} ${values ? `What stands here is of ${timeOfDay(heard)}. ` : ""}The next try is in ${pause} s.`;
      if (!trouble) heard = Date.now() / 1000;
      else if (values) draw();
      else show(h("h1", { tabindex: "-1" }, "There is no answer"));
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
const darkness = () => theme.setAttribute("aria-pressed", dark());
darkness();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", darkness);
theme.addEventListener("click", () => {
  const next = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  darkness();
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
