"""The processes of a node store: the server, its supervisors."""
