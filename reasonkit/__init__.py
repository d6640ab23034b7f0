"""reasonkit: reinforcement learning with verifiable rewards, one command from laptop to cluster."""

__version__ = "0.1.0"
