"""Progress reports from training pods: an HTTPS endpoint that believes a pod only about its own run."""
