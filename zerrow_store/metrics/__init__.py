"""Metrics of stores: their names and meanings, a Prometheus endpoint, and a Grafana dashboard."""
