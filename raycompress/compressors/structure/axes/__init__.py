"""Which channels of a network hang together, read off the operations of one real forward pass.

Every element of every dimension of every parameter is an *atom*. The operations that the pass executes say which atoms
can only be removed together. `record` runs the model and returns the `Couplings`.
"""
