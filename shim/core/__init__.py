"""The contract as pure code: no I/O, no clock, no dice; the standard library only."""
