"""Tests of `shim.client`."""
