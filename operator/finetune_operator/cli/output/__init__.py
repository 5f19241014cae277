"""What the commands print: tables, a run at a glance, advice, times and sizes."""
