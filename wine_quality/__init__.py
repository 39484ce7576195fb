"""The data, its splits, the models, and how they are tracked, registered and stored."""
