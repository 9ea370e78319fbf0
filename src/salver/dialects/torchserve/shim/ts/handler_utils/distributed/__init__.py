"""Distribution of models over several devices."""
