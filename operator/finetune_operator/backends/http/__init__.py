"""HTTP to everything outside the cluster: one client, checked addresses, bounded answers, no credentials in texts."""
