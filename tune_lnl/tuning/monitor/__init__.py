"""What a person watches: console, progress table, dashboards, metrics."""
