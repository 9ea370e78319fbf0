"""What a caller is told about its key."""

from collections.abc import Awaitable
from typing import Any

import pytest

from salver.features.access.key_format import digest_of
from salver.features.access.key_table import Key, KeyTable
from salver.features.access.limit_book import LimitBook
from salver.features.access.limits import LimitRules, Limits
from salver.features.access.me import KeyView, operations, view
from salver.features.access.scopes import Scopes
from salver.transport.access_check import Access
from salver.transport.operations import Answer, ApiRequest, right_of
from salver.words.errors import NotFound
from salver.words.messages import LimitState, Standing

SCOPES = Scopes(("infer:m*", "read"))


def test_the_view_of_a_key() -> None:
    limits = Limits(LimitRules("1/h+3", at_once=2))
    key = Key("k1", "ada", SCOPES, 99.5, limits, Standing("acme", 2, "bulk"))
    limits.take(0)
    limits.running += 1
    assert view(key, 0, LimitBook()) == KeyView(
        *("k1", "ada", ("infer:m*", "read"), "acme", 2, "bulk", 99.5),
        (LimitState("key-requests", 3, 10800, 2), LimitState("key-concurrent-requests", 2, 0, 1)),
    )
    limits.running -= 1
    assert [limit.left for limit in view(key, 0, LimitBook()).limits] == [2, 2]


def test_the_servers_token_may_do_everything() -> None:
    token = view(Key("token", "", Scopes(("*",)), granted=None), 0, LimitBook())
    assert token == KeyView("token", "", ("*",), "*", 1, "urgent", None, ())


async def test_the_operation_tells_the_key_of_the_request() -> None:
    table = KeyTable(lambda: 0.0, lambda: 0, b"")
    table.replace({digest_of(b"key"): Key("k1", "ada", SCOPES)})
    (me,) = operations(table)
    assert right_of(me) == "known" and not me.changes

    def ask(*headers: tuple[bytes, bytes]) -> Awaitable[Answer]:
        return me.run(ApiRequest({}, own=Access("", keys=table).own(headers)))

    told: Any = (await ask((b"x-api-key", b"key"))).body
    assert (told.id, told.tenant, told.limits) == ("k1", "", ())
    for headers in ((), ((b"x-api-key", b"nobody's"),)):
        with pytest.raises(NotFound):  # a token of the registry opens the interface, too
            await ask(*headers)
    assert Access("").own([(b"x-api-key", b"key")]) is None, "no keys"
