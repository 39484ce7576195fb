"""Chapter 6: more than one machine."""
