"""The benchmark: layers and models of well-known networks, against stock PyTorch, in one process.

`layers` and `models` are what is measured, `measure` how, `report` and `plots` show it.
"""
