"""Chapter 5: the model in use is monitored, and retrained if that may help."""
