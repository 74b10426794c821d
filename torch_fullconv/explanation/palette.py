"""One colour a role, the same in formulas, pictures, the terminal and the page.

All four are at least 3:1 against white and against a dark page, and stay apart for readers who see
no red, no green or no blue.
"""

from __future__ import annotations

COLOURS = {
    "input": "#1d5bea",  # X, blue
    "filter": "#d97a16",  # F and the bias, orange
    "output": "#11a66a",  # O, green
    "gradient": "#9a42a6",  # ∂E/∂ of any of them, purple
}
