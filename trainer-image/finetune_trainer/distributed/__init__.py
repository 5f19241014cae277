"""Several processes in one pod: one per GPU, started by the launcher, joined into one process group."""
