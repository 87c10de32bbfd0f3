"""The ablation study: `grid` defines the tables, `run` trains and measures the models, `report` writes the results."""
