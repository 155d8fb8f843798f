"""Options, checks and the plan of a search, before anything is written."""
