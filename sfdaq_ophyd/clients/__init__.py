"""One remote service each: blocking calls, finite timeouts, no ophyd."""
