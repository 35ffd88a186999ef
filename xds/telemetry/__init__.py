"""Histograms of times, and traces."""
