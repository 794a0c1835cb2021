//! TLS identity and roots with reload, channels, the accept loop with its limits, one back-off.
