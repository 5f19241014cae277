"""The FineTune operator: one Kubernetes resource for one LoRA fine-tune, wherever it runs."""

__version__ = "0.1.0"
