"""Ejection of instances that fail.

An instance is ejected after some failures in a row, or when a share of its attempts fails and the others'
do not, for a time that grows with each ejection, and then tried with one request at a time (half-open). Not
more than a share of all instances is ejected, but always one may be; the values are those of Envoy's outlier
detection and Finagle's failure accrual. Pure.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from salver.features.routing.instances import Instance
from salver.words.errors import InvalidInput

#: Weight of the newest attempt in the share of failed ones: of about the last twenty.
_GAIN: Final = 0.05


class EjectionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of failures and of ejections.

    Attributes:
        failures: Failed attempts in a row.
        failure_share: Share of failed attempts, of about the last twenty, if it is at most half as large at
            the other instances; 1 = it does not count.
        base_s: Seconds of the first ejection; the n-th in a row takes n times as long.
        most_s: Most seconds of an ejection.
        most_share: Largest share of the instances that is ejected at once, one at least.
    """

    failures: int = 3
    failure_share: float = 0.3
    base_s: float = 5.0
    most_s: float = 300.0
    most_share: float = 0.5

    def __post_init__(self) -> None:
        """Raises InvalidInput for values that make no sense."""
        if self.failures < 1:
            raise InvalidInput("it is at least 1", field="ejection.failures")
        if not 0 < self.failure_share <= 1:
            raise InvalidInput("it is above 0, and at most 1", field="ejection.failure_share")
        if not 0 < self.base_s <= self.most_s:
            raise InvalidInput("it is above 0, and at most most_s", field="ejection.base_s")
        if not 0 <= self.most_share <= 1:
            raise InvalidInput("it is between 0 and 1", field="ejection.most_share")


def failed(instance: Instance, instances: Sequence[Instance], config: EjectionConfig, now: float) -> bool:
    """Record a failed attempt; return whether it ejects the instance."""
    instance.failures += 1
    instance.failure_share += _GAIN * (1.0 - instance.failure_share)
    if instance.is_ejected:
        if now < instance.ejected_until:
            return False  # an attempt that began before
    elif instance.failures < config.failures and not _fails_alone(instance, instances, config):
        return False
    else:
        others = sum(each.is_ejected for each in instances)
        if others >= max(1, int(config.most_share * len(instances))):
            return False
    instance.ejections += 1
    instance.failure_share = 0.0
    instance.ejected_until = now + min(config.base_s * instance.ejections, config.most_s)
    return True


def _fails_alone(instance: Instance, instances: Sequence[Instance], config: EjectionConfig) -> bool:
    """Return whether so many attempts fail at this instance only: what callers do wrong fails everywhere."""
    share = instance.failure_share
    if share < config.failure_share:
        return False
    others = [each.failure_share for each in instances if each is not instance and not each.is_ejected]
    return sum(others) <= len(others) * share / 2


def succeeded(instance: Instance, now: float) -> None:
    """Record a success: an ejected instance whose time is over takes part again."""
    instance.failures = 0
    instance.failure_share -= _GAIN * instance.failure_share
    if now >= instance.ejected_until:
        instance.ejections = 0
