"""Chapter 4: the champion as a service and as a batch job."""
