"""Metrics of stores.

There is a Prometheus endpoint, and a Grafana dashboard.
"""
