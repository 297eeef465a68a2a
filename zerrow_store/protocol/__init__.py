"""What processes of a store say to each other, and how it travels."""
