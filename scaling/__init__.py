"""Chapter 6: scaling out."""
