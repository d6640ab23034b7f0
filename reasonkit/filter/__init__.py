"""Keep the records that a model can learn from: sampled pass rates, a band of them, caps and a balanced sample.

A filter run is an evaluation whose items are a training set, so sampling, judging and resuming are
`reasonkit.evaluate`'s. Here are only what follows from the samples (`rates`), which records that leaves (`choose`)
and what they look like (`histogram`).
"""
