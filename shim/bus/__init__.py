"""Redis: what is said to it, a sync and an async driver, and an embedded Valkey."""
