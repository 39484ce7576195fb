"""Chapter 3: the pipeline as a flow, and the servers that schedule and show it."""
