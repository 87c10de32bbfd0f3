"""The demo: `run` trains and evaluates the models, `report` writes the HTML page."""
