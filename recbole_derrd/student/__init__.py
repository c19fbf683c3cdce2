"""The distilled model, and where it starts from."""
