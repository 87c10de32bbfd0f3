"""The benchmark: `peers` defines the models, `measure` one group, `run` all groups, `report` writes the results."""
