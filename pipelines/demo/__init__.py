"""The demonstration, and the faces that it draws."""
