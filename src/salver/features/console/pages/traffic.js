// Requests a second and their time, from counts that only grow. What was seen is kept while the tab is open.

const MOST = 300;
const seen = new Map(); // "model\nversion" -> [{at, ok, failed, seconds}, …]

export function learn({ at, items }) {
  const here = new Set();
  for (const one of items) {
    const key = `${one.model}\n${one.version}`;
    here.add(key);
    const samples = seen.get(key) ?? [];
    const last = samples.at(-1);
    if (last && (one.ok < last.ok || one.failed < last.failed)) samples.length = 0; // loaded anew
    if (!last || at > last.at) samples.push({ at, ...one });
    if (samples.length > MOST) samples.shift();
    seen.set(key, samples);
  }
  for (const key of seen.keys()) if (!here.has(key)) seen.delete(key);
}

/** [[time, requests a second], …] of a version. */
export function rates(model, version) {
  return pairs(model, version, often);
}

/** [[time, seconds a good request took on average | null], …]. */
export function times(model, version) {
  return pairs(model, version, long);
}

const often = (now, before) => (now.ok + now.failed - before.ok - before.failed) / (now.at - before.at);
const long = (now, before) => (now.ok > before.ok ? (now.seconds - before.seconds) / (now.ok - before.ok) : null);

function pairs(model, version, tell) {
  const samples = seen.get(`${model}\n${version}`) ?? [];
  return samples.slice(1).map((now, index) => [now.at, tell(now, samples[index])]);
}

/** Requests a second of all versions of a model, or of all models, to three digits; null = nothing is known yet. */
export function rate({ items }, model = "") {
  const found = items.filter((one) => !model || one.model === model).map((one) => now(one.model, one.version).rate).filter((each) => each != null);
  return found.length ? Number(found.reduce((sum, each) => sum + each, 0).toPrecision(3)) : null;
}

export function now(model, version) {
  const [before, last] = (seen.get(`${model}\n${version}`) ?? []).slice(-2);
  return last ? { rate: often(last, before), time: long(last, before) } : { rate: null, time: null };
}
