"""Tests of the project itself: packaging, pins, import rules, commands."""
