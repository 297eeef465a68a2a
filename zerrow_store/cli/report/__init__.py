"""`zerrow report`: one self-contained HTML file about what stores do and have done."""
