"""Chapter 5: monitor the champion, and retrain when new labels may improve it."""
