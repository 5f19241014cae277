"""The cluster as the commands see it: the connection, FineTunes, pods."""
