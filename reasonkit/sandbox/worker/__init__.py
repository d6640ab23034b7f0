"""The other side of the wall: what runs inside the sandbox's worker process.

Imports the standard library only, and only these modules and `reasonkit.sandbox.plain` and `.wire`: the worker is a
bare `python -S` that loads them without the rest of the package, so that a fork of it is cheap and holds nothing
worth stealing.
"""
