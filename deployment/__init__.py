"""Chapter 4: serve the champion online and in batches."""
