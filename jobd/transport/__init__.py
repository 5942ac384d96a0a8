"""The network's edge: binding, accepting, TLS handshakes and their limits."""
