"""What every long stage shares: configuration, run folders, checkpoints, metrics, signals, progress, ranks.

Reads TOML and run folders; writes runs: checkpoints, metrics.jsonl, logs.
"""
