"""A simulated year of the whole loop, on real servers and real data."""
