"""Chapter 5: the model in use is watched, and trained anew where that may help."""
