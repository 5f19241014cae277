"""A batch/v1 Job of the trainer image. `manifest` builds it, `interpret` reads it back, `diagnose` says why."""
