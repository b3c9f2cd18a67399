"""The demo: a small dispatch room on both backends. `make demo`, `make serve`."""
