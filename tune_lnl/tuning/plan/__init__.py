"""From what the user asked for to a checked plan, before anything is written."""
