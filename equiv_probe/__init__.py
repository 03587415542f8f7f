"""How much of a model's loss is there only because the model does not respect rotation."""
