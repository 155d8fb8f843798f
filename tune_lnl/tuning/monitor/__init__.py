"""The views of a running search: console, table, dashboards, metrics."""
