"""What a run reports: events, progress, metrics, the termination message, plots. Secrets are redacted."""
