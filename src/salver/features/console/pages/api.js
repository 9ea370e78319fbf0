// What the server is asked, and what becomes of it when it does not answer.

const ROOT = "/api/v1";
const tags = new Map();

/** An answer that is no good: its problem (RFC 9457), in words. */
export class Problem extends Error {
  constructor(status, told) {
    const fix = told.fix && !told.detail?.includes(told.fix) ? ` ${told.fix}` : "";
    super(`${(told.detail || told.title || `status ${status}`).replace(/\.$/, "")}.${fix}`);
    this.status = status;
    this.field = told.field ?? "";
  }
}

/** A text that a browser keeps in `store()`; one that keeps nothing, and may refuse to name its store, has it while the page is open. */
function kept(store, key) {
  let here = "";
  return {
    get() {
      try {
        return store().getItem(key) ?? "";
      } catch {
        return here;
      }
    },
    set(text) {
      here = text;
      try {
        store().setItem(key, text);
      } catch {
        // then it is gone with the page
      }
    },
  };
}
const actor = kept(() => localStorage, "salver-actor");
const token = kept(() => sessionStorage, "salver-token"); // gone with the tab
export const identity = {
  get name() { return actor.get(); },
  get token() { return token.get(); },
  set(name, text) {
    actor.set(name);
    token.set(text);
  },
};

async function ask(verb, path, body, extra = {}) {
  const headers = { ...extra };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (verb !== "GET" && identity.name) headers["x-salver-actor"] = encodeURIComponent(identity.name.replace(/\p{Surrogate}/gu, "?"));
  if (identity.token) headers.authorization = `Bearer ${identity.token}`; // else a browser sends the password that it was given
  const reply = await fetch(ROOT + path, {
    method: verb, headers, body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store", // a browser that keeps answers lets one request wait for another of the same address
    signal: AbortSignal.timeout(15000),
  });
  if (!reply.ok) throw new Problem(reply.status, await reply.json().catch(() => ({})));
  return reply;
}

/** The answer to a GET. */
export async function get(path) {
  const reply = await ask("GET", path);
  if (!path.includes("?")) tags.set(path, reply.headers.get("etag") ?? ""); // lists are not changed by their tags
  return reply.json();
}
/** The same of what may not be there: then null. */
export const maybe = (path) => () => get(path).catch((error) => {
  if (error.status === 404) return null;
  throw error;
});
/** The state that was told last, for `if-match`. */
export const tagOf = (path) => tags.get(path) ?? "";
export const send = async (verb, path, body = {}, extra = {}) => (await ask(verb, path, body, extra)).json();
/** A path of parts, each of which may hold anything. */
export const at = (strings, ...parts) => strings.reduce((path, text, index) => path + encodeURIComponent(parts[index - 1]) + text);

/**
 * Ask again and again, while the page is seen; the pauses grow while the server is away, or cannot tell. `seconds()` is the usual one.
 * `tell(trouble, pause)` hears how it stands, in words and seconds; `done` is called with what `read` gives, `failed`
 * with what a server refuses.
 */
export function poll(read, seconds, { done, failed, tell }) {
  let stopped = false;
  let timer = 0;
  let misses = 0;
  let turn = 0;
  let took = 0; // milliseconds of the last drawing
  async function once() {
    clearTimeout(timer);
    const mine = ++turn; // whoever asks anew takes the place of the one who still waits
    if (stopped || document.hidden) return;
    try {
      const values = await read();
      if (stopped || mine !== turn) return;
      misses = 0;
      tell("");
      const since = performance.now();
      done(values);
      took = performance.now() - since;
    } catch (error) {
      if (stopped || mine !== turn) return;
      if (error instanceof Problem && error.status < 500) {
        tell("");
        failed(error);
      } else {
        misses += 1;
        const pause = Math.min(30, 2 ** misses);
        tell(error instanceof Problem ? error.message : "The server does not answer.", pause);
        timer = setTimeout(once, pause * 1000);
        return;
      }
    }
    timer = setTimeout(once, Math.max(seconds() * 1000, 10 * took)); // a page of thousands of rows leaves time to use it
  }
  const seen = () => { if (!document.hidden) once(); };
  document.addEventListener("visibilitychange", seen);
  once();
  return {
    again: once,
    stop() {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    },
  };
}
