"""The Hugging Face Hub, and files that look like it: listing, ranged reads, pinned downloads, exact streams.

    client.py    the Hub's HTTP API: a pinned listing, byte ranges that survive faults, verified downloads
    tables.py    parquet and JSONL, local or on the Hub, as row groups that can be read in any order
    stream.py    a shuffled order over row groups that can stop and resume at any row

Nothing here knows what a row means: rows are dicts, and adapters turn them into records.
"""
