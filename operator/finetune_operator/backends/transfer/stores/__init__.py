"""Where users keep datasets and want results: S3-compatible object stores, the Hugging Face hub, web servers.

All requests go through the guarded fetcher; no client library is used, because each brings its own connections, which
would go past the address guard.
"""
