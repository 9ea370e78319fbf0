from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


class Meters:
    def initialize(self, context):
        self.gold = context.metrics.add_metric_to_cache(
            metric_name="GoldCounter",
            unit="count",
            dimension_names=["ModelName", "Colour"],
            metric_type=MetricTypes.COUNTER,
        )

    def handle(self, data, context):
        m = context.metrics
        m.add_counter("GoldCalls", len(data))
        m.add_time("GoldTime", 1.5)
        m.add_size("GoldSize", 4, unit="MB")
        m.add_percent("GoldShare", 25)
        m.add_metric("GoldGeneric", 3, unit="unit", dimensions=[Dimension("Kind", "any")])
        self.gold.add_or_update(2, ["meters", "yellow"])
        return ["measured"] * len(data)
