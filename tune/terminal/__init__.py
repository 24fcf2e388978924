"""What a terminal shows: the live view of a search, and the tables of `status` and `best`."""
