"""Console: static pages over the server's own interface, without a build step and usable offline."""

from salver.feature import Feature

feature = Feature("console", "salver.features.console.building:build")
