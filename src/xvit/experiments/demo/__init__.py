"""The demo: `run` predicts, trains and evaluates, `report` writes the HTML page."""
