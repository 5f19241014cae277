"""Files on their way between providers and the users' stores, through the spool."""
