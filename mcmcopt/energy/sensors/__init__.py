"""Sensors, one file each: what they find on this machine, and what they read."""
