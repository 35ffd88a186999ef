"""Files for those who watch servers: alert rules for Prometheus, and a dashboard for Grafana."""
