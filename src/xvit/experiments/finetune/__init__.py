"""Fine-tuning on a folder of clips: `ways` has the ways to train, `run` chooses one and trains, `report` writes."""
