"""Flags that are given twice: the later one wins, as where users' arguments come after a runtime's."""

from collections.abc import Sequence

from cyclopts import App
from cyclopts.exceptions import CycloptsError, RepeatArgumentError
from cyclopts.utils import UNSET


def later_wins(app: App, words: Sequence[str]) -> list[str]:
    """Return a command line without those flags of one value that are given again later.

    Other faults are left for the parse that follows.
    """
    kept = list(words)
    for _ in words:
        try:
            app.parse_args(kept, exit_on_error=False, print_error=False)
        except RepeatArgumentError as error:
            flag = error.token.keyword
            first = next((n for n, word in enumerate(kept) if word.partition("=")[0] == flag), None)
            if first is None:
                return kept
            takes_next = kept[first] == flag and error.token.implicit_value is UNSET
            del kept[first : first + 1 + takes_next]
        except CycloptsError:
            return kept
        else:
            return kept
    return kept
