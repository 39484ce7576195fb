"""Chapter 3: the training flow, its bucket and its report."""
