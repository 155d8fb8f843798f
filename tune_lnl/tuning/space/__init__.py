"""Search spaces: ranges, start points, named YAML files."""
