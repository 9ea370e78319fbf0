"""Every route and method of every protocol and port, asked with each kind of key; and the page about them.

``python tests/features/access/test_every_route.py`` rewrites docs/reference/access.md.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from access_world import KINDS, Asking, KeyRing, Ports, Said, askings, serving

from salver.features.access.key_table import KeyTable
from salver.features.access.scopes import RIGHTS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "access.md"
#: Rights that a key of any scopes has.
FREE = ("open", "known")
LIVE = ["/inference.GRPCInferenceService/ServerLive", "/v2/health/live"]
INTRODUCTION = """# Scopes of keys

A server with [keys](../how-to/keys.md) asks for one before it reads a body. This page lists what each right
allows. A scope is a right, as `infer`, or a right with a pattern of model names, as `infer:resnet*`, in which
`*` stands for any letters.

| Right | |
|---|---|
"""
OUTCOMES = """
## Answers

| A request with | HTTP | gRPC | Error in `WWW-Authenticate` |
|---|---|---|---|
| no key | 401 | `UNAUTHENTICATED` | none |
| a key that is unknown, expired or revoked | 401 | `UNAUTHENTICATED` | `invalid_token` |
| keys of several callers | 400 | `UNAUTHENTICATED` | no header |
| a key without the right, or of other models | 403 | `PERMISSION_DENIED` | `insufficient_scope` |
| a key at its limit, or whose quota is used up, to run a model | 429 | `RESOURCE_EXHAUSTED` | no header |

The body has the form of the protocol: `{"error": text}` for Open Inference, Triton, KServe and TensorFlow
Serving, OpenAI's error object (`authentication_error`, `permission_error`), TorchServe's `{code, type,
message}`, and RFC 9457 below `/api/v1`. A model that does not exist is answered like one that the key may not
use. Methods that stream requests report an error in their replies.

If a scope has a pattern, it must match each model that a request names. An operation that names no model
concerns all of them, and needs the right without a pattern. Lists (*partly*) leave out the models that no
pattern matches.

## Limits

A key, a tenant, a model and the server may each have these:

| Limit | Unit | Charged |
|---|---|---|
| `requests = "50/s+100"` | requests, with a burst of 100 | before the model runs |
| `rows = "2000/s+4000"` | rows of the first input; 1 without a batch dimension | before the model runs |
| `tokens = "100/s+5000"` | tokens of prompt and answer | one before, the rest with the answer |
| `at_once = 8` | requests that run | from the beginning to the end |

Rates are written as `N/s`, `N/m` or `N/h`, up to 1,000,000 a second. N may come at once, or as many as
`+BURST` says. `0/s` refuses everything. No window of T seconds has more than the burst and T times the
rate, of requests and of rows; of tokens, none that ends with an accepted request. A key has its limits in
its table (`limits = { requests = "50/s" }`), the others stand in `[limits.server]`, `[limits.tenants.NAME]`
and `[limits.models.NAME]` of the keys file, or in the ledger (`salver keys limits`), with `*` for any
letters. Beyond 4,096 names that patterns match, further ones share one limit until others are idle. The
server's token has no limits of its own, but those of tenants, models and the server hold for it.

| Field of a 429 | |
|---|---|
| `Retry-After`, `retry-after-ms` | time until the longest of the limits accepts the request |
| `RateLimit-Policy: "tenant-rows";q=4000;qu="rows";w=2` | strictest limit, burst, seconds until it is back |
| `RateLimit: "tenant-rows";r=0;t=1` | nothing is left; more in so many seconds |
| `x-should-retry: false` | the request has more rows than a burst: it is never accepted |

Over gRPC, `grpc-retry-pushback-ms` has the time, or -1.

An answer to a request with `Prefer: ratelimit` ([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240)) has
`RateLimit-Policy` and `RateLimit` with each limit and quota of the run: `r` is what is left, `t` the seconds
until all of it is back. Over gRPC the same words are metadata, asked for and answered before the first
message; streaming methods do not tell it. An answer in pieces tells it as it begins. Several runs of one
request, as of many texts for embeddings, are told by `GET /api/v1/me` only.

## Quotas

A key has [quotas](../how-to/usage.md) beside its limits (`limits = { quotas = ["10000/day"] }`), at most
one of a unit and span:

| Quota | Unit | Charged |
|---|---|---|
| `10000/day`, `10000 requests/day` | requests | before the model runs |
| `500000 rows/month` | rows | before the model runs |
| `1e6 tokens/month` | tokens of prompt and answer; pieces where nobody counts them | with the answer |
| `3600 seconds/day` | seconds in the model, by its share of the batch | after the run |

Numbers are whole, up to 1e15; seconds have up to six decimals. Spans are days and months of UTC. The name
in `RateLimit` is `key-requests-day`, `key-compute-seconds-month` and so on. An answer 429 has `Retry-After`
with the time until the quota is renewed and `x-should-retry: false`, over gRPC a pushback of -1, and
OpenAI's code `insufficient_quota`. While the ledger does not answer and the server's slice is used up, it
is 429 with a `Retry-After` of seconds.
"""
TABLE = """
## Every route and method, with each kind of key

What a request is answered with over HTTP, by its key: none, or one that is unknown, expired or revoked; one
without the right; one that has it for other models; one for this model; one for all. Over gRPC,
401 is `UNAUTHENTICATED` and 403 `PERMISSION_DENIED`. A test asks each of them with each of these keys.
"""
#: Kinds of keys, as columns of the tables.
COLUMNS = ("none, not valid", "no right", "other model", "this model", "right")
TITLES = {
    "open": "Without a key",
    "known": "With any key",
}


async def test_every_route_answers_each_key_as_documented(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.toml")
    async with serving(tmp_path, ring.path, **of_features(tmp_path)) as ports:
        every = list(askings(ports.server))
        assert {asking.kind for asking in every} == set(KINDS)
        assert sorted({asking.path for asking in every if asking.right == "open"}) == LIVE
        assert PAGE.read_text() == page(every), "python tests/features/access/test_every_route.py"
        await nothing_but_liveness_is_answered_without_a_valid_key(ports, ring, every)
        await a_key_without_the_right_is_refused(ports, ring, every)
        await a_key_of_another_model_is_refused(ports, ring, every)
        await a_key_of_the_model_is_refused_what_concerns_all_models(ports, ring, every)
        await a_key_with_every_right_is_refused_nowhere(ports, ring, every)


async def asked(ports: Ports, asking: Asking, key: str) -> Said:
    """Ask, and see that a refusal is recorded, once."""
    before = recorded(ports)
    said = await ports.ask(asking, key)
    assert recorded(ports) - before == (said.is_unidentified or said.is_out_of_scope), (asking, said)
    return said


def recorded(ports: Ports) -> float:
    keys = ports.server.kernel.keys
    assert isinstance(keys, KeyTable)
    return sum(sample.value for family in keys.refusals.collect() for sample in family.samples)


async def nothing_but_liveness_is_answered_without_a_valid_key(
    ports: Ports, ring: KeyRing, every: Sequence[Asking]
) -> None:
    for asking in every:
        for key in ("", "slv_nobodys", ring.expired, ring.revoked):
            said = await asked(ports, asking, key)
            assert said.is_unidentified == (expected(asking)[0] == "401"), (asking, said)
            if asking.verb and asking.right != "open":
                wrong = ', error="invalid_token"' if key else ""
                challenges = said.headers.get_list("www-authenticate")
                assert challenges[0] == f'Bearer realm="salver"{wrong}', asking
            assert not key or key not in said.text


async def a_key_without_the_right_is_refused(ports: Ports, ring: KeyRing, every: Sequence[Asking]) -> None:
    for asking in every:
        key = ring.without.get(asking.right, ring.without["infer"])
        said = await asked(ports, asking, key)
        assert not said.is_unidentified, (asking, said)
        assert said.is_out_of_scope == (expected(asking)[1] == "403"), (asking, said)
        if said.status == 403:
            challenge = f'Bearer realm="salver", error="insufficient_scope", scope="{asking.right}"'
            assert said.headers["www-authenticate"] == challenge


async def a_key_of_another_model_is_refused(ports: Ports, ring: KeyRing, every: Sequence[Asking]) -> None:
    for asking in every:
        said = await asked(ports, asking, ring.other_model)
        assert said.is_out_of_scope == (expected(asking)[2] == "403"), (asking, said)


async def a_key_of_the_model_is_refused_what_concerns_all_models(
    ports: Ports, ring: KeyRing, every: Sequence[Asking]
) -> None:
    for asking in every:
        said = await asked(ports, asking, ring.same_model)
        assert said.is_out_of_scope == (expected(asking)[3] == "403"), (asking, said)


async def a_key_with_every_right_is_refused_nowhere(
    ports: Ports, ring: KeyRing, every: Sequence[Asking]
) -> None:
    for asking in every:
        said = await asked(ports, asking, ring.everything)
        assert not said.is_unidentified and not said.is_out_of_scope, (asking, said)
        assert expected(asking)[4] == "yes"


def expected(asking: Asking) -> tuple[str, ...]:
    """What each kind of key is answered with, in the order of :data:`COLUMNS`."""
    if asking.right == "open":
        return ("yes",) * len(COLUMNS)
    if asking.right == "known":
        return ("401", *["yes"] * (len(COLUMNS) - 1))
    if asking.filters:
        return "401", "403", "partly", "partly", "yes"
    names_model = asking.names_model or asking.right == "infer"
    return "401", "403", "403", "yes" if names_model else "403", "yes"


def page(every: Sequence[Asking]) -> str:
    """The reference, from the tables of a server that has everything."""
    text = INTRODUCTION + "".join(f"| `{right}` | {what} |\n" for right, what in RIGHTS.items())
    text += OUTCOMES + TABLE
    for right in (*FREE, *(right for right in RIGHTS if right != "*")):
        text += f"\n### {TITLES.get(right, f'`{right}`')}\n\n| | {' | '.join(COLUMNS)} |\n"
        text += "|---|" + "---|" * len(COLUMNS) + "\n"
        found = sorted({_row(asking) for asking in every if asking.right == right})
        text += "".join(f"{row}\n" for row in found)
    return text


def _row(asking: Asking) -> str:
    path = asking.path.partition("?")[0].replace("mlp", "NAME").replace("/none", "/…")
    what = f"{asking.verb} {path}" if asking.verb else path
    return f"| `{what}` | {' | '.join(expected(asking))} |"


def of_features(folder: Path) -> dict[str, dict[str, str]]:
    """Tables of features whose operations are there only if they are used."""
    rules = folder / "rules.toml"
    rules.touch()
    return {"registry": {"ledger": str(folder / "registry")}, "rules": {"file": str(rules)}}


async def write() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ring = KeyRing(folder / "keys.toml")
        async with serving(folder, ring.path, **of_features(folder)) as ports:
            PAGE.write_text(page(list(askings(ports.server))))


if __name__ == "__main__":
    asyncio.run(write())
