"""A simulated year of monitoring, retraining and promotion, on real servers."""
