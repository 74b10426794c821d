"""A layer explained: its equations, pictures of them, and an interactive page.

`explain` makes the `Explanation` of a layer; `equations` and `symbols` are what it is made of, and
`palette` has the one colour of each role. Nothing here computes an index or a number: indices are
`ops.meetings`, numbers the layer's own operations.
"""

from .layer import Explanation, Shape, explain

__all__ = ["Explanation", "Shape", "explain"]
