"""`zerrow report`: one HTML page about the stores."""
