"""What two chapters share: the wine, its splits, the models, and how they are tracked, registered and stored."""
