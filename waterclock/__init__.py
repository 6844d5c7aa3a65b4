"""Waterclock."""
