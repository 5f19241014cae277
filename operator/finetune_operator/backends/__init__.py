"""Where a run happens: a Job, or one of the upstream APIs."""
