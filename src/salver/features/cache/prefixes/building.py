"""Parts of the prefix cache."""

import logging
from collections.abc import Iterator
from weakref import WeakSet

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from salver.backends.protocol import ResumableSteps, StepModel
from salver.features import PrefixConfig
from salver.features.cache.options import byte_size
from salver.features.cache.prefixes.remembering import PrefixStore, RememberingSteps
from salver.features.cache.prefixes.tree import BlockTree
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput

_LOG = logging.getLogger("salver.cache")
_FLAG = "--prefix-cache"
_CHOICES = {"policy": ("worth", "lru"), "tenants": ("apart", "together")}


async def build(kernel: Kernel, config: PrefixConfig) -> Parts:
    """Remember states of step-wise models after the beginnings of prompts.

    Raises:
        InvalidInput: the settings are wrong.
    """
    size, choices = parse(config.settings)
    tree = BlockTree(size, is_plain=choices["policy"] == "lru")
    prefixes = Prefixes(PrefixStore(tree, kernel.clock, is_shared=choices["tenants"] == "together"))
    return Parts(additions=Additions(steps=prefixes.wrap), collectors=[prefixes])


def parse(settings: str) -> tuple[int, dict[str, str]]:
    """Return the bytes and the other settings.

    Raises:
        InvalidInput: one is unknown or malformed.

    >>> parse("64m,policy=lru")
    (67108864, {'policy': 'lru', 'tenants': 'apart'})
    """
    size, *others = settings.split(",")
    found = {name: values[0] for name, values in _CHOICES.items()}
    for each in others:
        name, _, value = each.partition("=")
        if value not in _CHOICES.get(name, ()):
            known = "; ".join(f"{name}={' or '.join(values)}" for name, values in _CHOICES.items())
            raise InvalidInput(
                f"{_FLAG}: there is no setting {each!r}", fix=f"There are {known}.", field=_FLAG
            )
        found[name] = value
    return byte_size(size, f"the size of {_FLAG}"), found


class Prefixes:
    """The models that remember prefixes, and their metrics."""

    def __init__(self, store: PrefixStore) -> None:
        self._store = store
        self._models: WeakSet[RememberingSteps] = WeakSet()

    def wrap(self, manifest: Manifest, model: StepModel) -> StepModel:
        """See :class:`~salver.kernel.serving.loading.StepWrapper`."""
        block = manifest.config.steps.prefix_block
        if not block:
            return model
        if not isinstance(model, ResumableSteps):
            _LOG.warning(
                "model %s gets no prefix cache: its class has no methods save and resume", manifest.id
            )
            return model
        made = RememberingSteps(manifest.id, model, block, self._store)
        self._models.add(made)
        return made

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        tree = self._store.tree
        yield GaugeMetricFamily("salver_prefix_bytes", "States of known prefixes.", value=tree.used)
        yield CounterMetricFamily(
            "salver_prefix_evictions", "Blocks of prefixes that made room for others.", value=tree.evictions
        )
        labels = ("model", "version")
        tokens = CounterMetricFamily(
            "salver_prefix_tokens", "Tokens of prompts, known or read.", labels=(*labels, "kind")
        )
        saved = GaugeMetricFamily(
            "salver_prefix_saved_seconds",
            "Time of the model that known prefixes have saved, less that of the cache.",
            labels=labels,
        )
        for model in list(self._models):
            if not model.block:
                continue
            names = (model.id.name, model.id.version)
            tokens.add_metric((*names, "known"), model.counts.known)
            tokens.add_metric((*names, "read"), model.counts.read)
            saved.add_metric(names, model.counts.saved_s)
        yield from (tokens, saved)
