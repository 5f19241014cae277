"""Scenario: custom models of pictures and recordings."""
