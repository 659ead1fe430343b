"""Six networks in every inference runtime, dense and with fewer multiply-adds: what each conversion costs and brings.

The networks need the environment of ``make zoo``, the runtimes that of ``make targets``.
"""
