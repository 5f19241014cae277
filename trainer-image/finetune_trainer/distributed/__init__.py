"""Several processes in one pod: one per GPU, started by the launcher and joined into a process group."""
