"""What acts, and how it is kept in a folder."""
